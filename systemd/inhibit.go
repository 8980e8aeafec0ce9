package systemd

import (
	"io"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/login1"
	"github.com/rs/zerolog"
)

// What logind is asked for. A delay and not a block: what is past its point of no return is completed after any restart, so a shutdown need only
// be put off until it is, for the few seconds that logind grants; a step that is tried again for ever must not keep a host from its shutdown.
const (
	inhibitWhat = "shutdown"
	inhibitWho  = "vdsm-agentd"
	inhibitWhy  = "a task passes its point of no return"
	inhibitMode = "delay"
)

// inhibitWithin is how long a task waits until logind has answered. A lock that comes later is there for what is left of the step.
const inhibitWithin = time.Second

// Inhibitor puts a shutdown of the host off while tasks pass their points of no return, by one lock of logind's for all of them. A host without logind has
// none, and nothing waits. Its methods may be called from any goroutine.
type Inhibitor struct {
	log  zerolog.Logger
	take func() (io.Closer, error) // asks logind

	mu     sync.Mutex // guards what follows; never held while logind is asked
	users  int
	lock   io.Closer     // what is held; nil = nothing
	asking chan struct{} // closed when logind has answered; nil = it is not being asked
	failed bool          // it was logged that there is no lock
}

// NewInhibitor makes an Inhibitor. It asks nobody until Hold.
func NewInhibitor(log zerolog.Logger) *Inhibitor { return &Inhibitor{log: log, take: askLogind} }

// askLogind takes a lock, which is held until it is closed, or the process ends.
func askLogind() (io.Closer, error) {
	bus, err := login1.New()
	if err != nil {
		return nil, err
	}
	defer bus.Close()
	lock, err := bus.Inhibit(inhibitWhat, inhibitWho, inhibitWhy, inhibitMode)
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// Hold returns when the lock is held, or there is none to be had, or logind has not answered within a second. What it returns gives the lock back, when
// nobody else needs it; it is called once.
func (i *Inhibitor) Hold(string) (release func()) {
	i.mu.Lock()
	i.users++
	if i.lock == nil && i.asking == nil {
		i.asking = make(chan struct{})
		go i.ask(i.asking)
	}
	answered := i.asking
	i.mu.Unlock()
	if answered != nil {
		late := time.NewTimer(inhibitWithin)
		defer late.Stop()
		select {
		case <-answered:
		case <-late.C:
		}
	}
	return i.release
}

// ask takes the lock, and gives it back at once if nobody needs it any more.
func (i *Inhibitor) ask(answered chan struct{}) {
	lock, err := i.take()
	i.mu.Lock()
	defer i.mu.Unlock()
	defer close(answered)
	i.asking = nil
	switch {
	case err != nil && !i.failed:
		i.failed = true
		i.log.Debug().Err(err).Msg("a shutdown of the host is not put off while a task passes its point of no return: logind does not answer")
	case err != nil:
	case i.users == 0:
		i.close(lock)
	default:
		i.lock, i.failed = lock, false
	}
}

func (i *Inhibitor) release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.users--; i.users == 0 && i.lock != nil {
		i.close(i.lock)
		i.lock = nil
	}
}

// close gives a lock back. Closing it is all that logind looks at.
func (i *Inhibitor) close(lock io.Closer) {
	if err := lock.Close(); err != nil {
		i.log.Warn().Err(err).Msg("the lock that puts a shutdown off could not be closed")
	}
}
