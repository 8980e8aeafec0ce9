package systemd

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// logind stands for the host's: a lock is held from the answer to its Close.
type logind struct {
	asked, held int
	gate        chan struct{} // nil = it answers at once
	err         error
}

func (l *logind) take() (io.Closer, error) {
	l.asked++
	if l.gate != nil {
		<-l.gate
	}
	if l.err != nil {
		return nil, l.err
	}
	l.held++
	return l, nil
}

// Close gives a lock back.
func (l *logind) Close() error { l.held--; return nil }

// TestInhibitor: one lock for all who need it at the same time, which is gone when the last of them does not.
func TestInhibitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logind{}
		i := &Inhibitor{log: zerolog.Nop(), take: l.take}
		first := i.Hold("a")
		second := i.Hold("b")
		if l.held != 1 || l.asked != 1 {
			t.Errorf("%d locks are held, logind was asked %d times", l.held, l.asked)
		}
		first()
		if l.held != 1 {
			t.Error("the lock is gone while a task needs it")
		}
		second()
		if l.held != 0 {
			t.Error("the lock is held though nobody needs it")
		}
		i.Hold("c")()
		if l.held != 0 || l.asked != 2 {
			t.Errorf("%d locks are held, logind was asked %d times", l.held, l.asked)
		}
	})
}

// TestInhibitorHangs: a logind that does not answer is waited for a second; its lock is used when it comes, or given back.
func TestInhibitorHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &logind{gate: make(chan struct{})}
		i := &Inhibitor{log: zerolog.Nop(), take: l.take}
		begun := time.Now()
		release := i.Hold("a")
		if took := time.Since(begun); took != inhibitWithin {
			t.Errorf("it took %s", took)
		}
		l.gate <- struct{}{}
		synctest.Wait()
		if l.held != 1 {
			t.Error("the lock that came late is not held")
		}
		release()
		if l.held != 0 {
			t.Error("it is not given back")
		}
		i.Hold("b")() // which gives up before it has it
		l.gate <- struct{}{}
		synctest.Wait()
		if l.held != 0 || l.asked != 2 {
			t.Errorf("%d locks are held, logind was asked %d times", l.held, l.asked)
		}
	})
}

// TestInhibitorWithout: a host without logind: one line for debugging, and nothing waits.
func TestInhibitorWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &logind{err: errors.New("no such bus")}
		i := &Inhibitor{log: zerolog.New(&log), take: l.take}
		begun := time.Now()
		for range 3 {
			i.Hold("a")()
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("it took %s", took)
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "no such bus"); n != 1 || !strings.Contains(log.String(), `"level":"debug"`) {
			t.Errorf("it is logged %d times:\n%s", n, &log)
		}
	})
}
