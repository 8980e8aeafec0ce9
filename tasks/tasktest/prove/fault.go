package prove

import (
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
)

// meet lets the fault happen.
func (p *process) meet(f *fault, commit bool) error {
	r := p.run
	r.mu.Lock()
	again := r.stopAgain
	r.stopAgain = false
	r.mu.Unlock()
	if again { // the client of a stop that died with the former process
		p.stopAt(commit, tasks.StopOptions{Who: "client"})
	}
	stopped := again
	if f != nil {
		switch f.kind {
		case faultStop:
			p.placeStop(f.arg, commit)
			stopped = true
		case faultCrash:
			p.crash(f.arg)
			return p.refusal(commit)
		case faultRestart:
			p.shutDown()
		case faultFail, faultFailFrom:
			return r.fail(f, commit)
		default:
			r.note("seed", "there is no fault %q", f.kind)
		}
	}
	if stopped && !commit {
		p.look() // so that the workers that the stop ends are ended when the effect goes on, or not, in every run
	}
	if p.isDead() {
		return p.refusal(commit)
	}
	return r.failing(commit)
}

func (p *process) refusal(commit bool) error {
	if commit {
		return store.ErrClosed
	}
	return errDead
}

// crash lets the process die now.
func (p *process) crash(arg string) {
	r := p.run
	k := r.world.Unsynced() + r.store.Open()
	keep, err := r.seed.keep(k, arg)
	if err != nil {
		r.note("seed", "%v", err)
		keep = func() bool { return false }
	}
	kept := ""
	spied := func() bool {
		yes := keep()
		if yes {
			kept += "+"
		} else {
			kept += "-"
		}
		return yes
	}
	left, world := r.store.Crash(spied), r.world.Crash(spied)
	r.mu.Lock()
	p.dead = true
	r.left, r.leftWorld = left, world
	r.mu.Unlock()
	_ = r.store.Close() // of a MemStore: never fails
	r.tracef("  CRASH, of %d unsynced changes kept: %s", k, kept)
	p.cancel()
}

// shutDown begins the end of the process in good order; what is at work goes on until it is told.
func (p *process) shutDown() {
	r := p.run
	r.mu.Lock()
	p.closing = true
	r.mu.Unlock()
	r.tracef("  SHUTDOWN begins")
	r.helpers.Go(p.reap)
	p.token <- struct{}{}
	synctest.Wait()
	<-p.token
}

// placeStop is a stop by a client at the point.
func (p *process) placeStop(arg string, commit bool) {
	o := tasks.StopOptions{Who: "client", Force: arg == "f"}
	if arg == "late" {
		p.run.helpers.Go(func() {
			<-time.After(lateness)
			p.run.stop(p.run.current(), o)
		})
		return
	}
	p.stopAt(commit, o)
	if arg == "2" && !commit {
		p.run.stop(p, o)
	}
}

// lateness is an odd time, so that nothing else happens at the same moment.
const lateness = 1_000_003 * time.Nanosecond

// stopAt has the stop recorded before an effect, or right after a transaction: there it is queued for the task's lock.
func (p *process) stopAt(commit bool, o tasks.StopOptions) {
	r := p.run
	if !commit {
		r.stop(p, o)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.stop(p, o)
	}()
	p.token <- struct{}{}
	synctest.Wait()
	<-p.token
	select {
	case <-done:
	default:
		r.mu.Lock()
		r.queued = append(r.queued, done)
		r.mu.Unlock()
	}
}

// settle waits until a stop that was queued for the lock has its answer. Transactions need not: the lock orders them.
func (r *run) settle() {
	r.mu.Lock()
	queued := r.queued
	r.mu.Unlock()
	for _, done := range queued {
		<-done
	}
}

// fail is the first failure of an operation.
func (r *run) fail(f *fault, commit bool) error {
	r.mu.Lock()
	r.failed = true
	if f.kind == faultFailFrom {
		r.broken, r.brokenCommit, r.healAt = true, commit, time.Now().Add(healAfter)
	}
	r.mu.Unlock()
	r.tracef("  FAILS (%s)", f.kind)
	return failure(commit, f.arg)
}

// healAfter is when a broken store or world mends by itself.
const healAfter = time.Minute

// failing is the error of what is broken.
func (r *run) failing(commit bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.broken || r.brokenCommit != commit || !time.Now().Before(r.healAt) {
		return nil
	}
	return failure(commit, "u")
}

func (r *run) heal() {
	r.mu.Lock()
	r.broken = false
	r.mu.Unlock()
}

func failure(commit bool, arg string) error {
	if !commit {
		return code.Errorf(code.Storage, "the storage fails, as the harness wants")
	}
	return storeFailure(arg)
}

func storeFailure(arg string) error {
	switch arg {
	case "k":
		return store.ErrUnknown
	case "a":
		return tasktest.ErrApplied
	default:
		return store.ErrUnavailable
	}
}
