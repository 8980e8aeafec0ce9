package tasks

import (
	"sync"
	"time"
)

// progress counts bytes and knows how fast they come.
type progress struct {
	mu      sync.Mutex
	done    int64
	total   int64
	samples []sample  // of the last rateWindow, at most one each sampleEvery
	told    time.Time // when subscribers were told last
}

type sample struct {
	at   time.Time
	done int64
}

const (
	rateWindow  = 5 * time.Second
	sampleEvery = 100 * time.Millisecond
)

// Progress is how far a task is.
type Progress struct {
	Done, Total int64         // bytes
	Rate        float64       // bytes per second over the last seconds; 0 = not known
	Left        time.Duration // at that rate; 0 = not known
}

// Percent is 0 to 100; 0 when the total is not known.
func (p Progress) Percent() float64 {
	if p.Total <= 0 {
		return 0
	}
	return 100 * float64(p.Done) / float64(p.Total)
}

func (p *progress) reset(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total, p.samples = done, total, nil
}

// set counts, and says whether it is time to tell subscribers, and how many bytes are new.
func (p *progress) set(done, total int64) (tell bool, more int64) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	more = max(done-p.done, 0)
	p.done, p.total = done, total
	if tell = now.Sub(p.told) >= progressEvery; tell {
		p.told = now
	}
	n := len(p.samples)
	switch {
	case n > 0 && done < p.samples[n-1].done:
		p.samples = nil // a slice is done again: what was before says nothing about the rate
	case n > 0 && now.Sub(p.samples[n-1].at) < sampleEvery:
		return tell, more
	}
	p.samples = append(p.samples, sample{now, done})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	return tell, more
}

func (p *progress) bytes() (done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done, p.total
}

func (p *progress) view(running bool) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := Progress{Done: p.done, Total: p.total}
	if n := len(p.samples); running && n > 1 {
		first, last := p.samples[0], p.samples[n-1]
		if span := last.at.Sub(first.at).Seconds(); span > 0 && last.done > first.done {
			v.Rate = float64(last.done-first.done) / span
			v.Left = time.Duration(float64(p.total-p.done) / v.Rate * float64(time.Second))
		}
	}
	return v
}
