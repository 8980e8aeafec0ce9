package soak

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"vdsm-agent/rpc/client"
)

// agent is the daemon through all of its lives.
type agent struct {
	state string
	life  *life // the present one; only the test's own goroutine changes it

	mu   sync.Mutex
	up   chan struct{} // closed while the daemon accepts work
	log  []string      // of all lives
	left int           // events until fire; 0 = nobody waits for any
	fire chan struct{}
}

// life is the daemon from one start to its end.
type life struct {
	cmd   *exec.Cmd
	ready chan struct{} // closed when it accepts work
	lines chan struct{} // closed when it has logged as many lines as were asked for
	ended chan struct{} // closed when it was waited for
	err   error         // how it ended
	over  bool          // it is being ended; guarded by the agent's mu
}

// start starts the daemon. The workers of the life before may be alive still.
func (a *agent) start(lines int) *life {
	l := &life{ready: make(chan struct{}), lines: make(chan struct{}), ended: make(chan struct{})}
	a.mu.Lock()
	a.life = l
	a.mu.Unlock()
	l.cmd = exec.Command(filepath.Join(binaries, "vdsm-agentd"), "--state-dir", a.state, "--config", os.DevNull)
	out, in, err := os.Pipe()
	if err == nil {
		l.cmd.Stderr = in
		err = l.cmd.Start()
	}
	if err != nil {
		l.err = err
		close(l.ended)
		return l
	}
	in.Close()
	go a.read(l, out, lines)
	go func() {
		state, err := l.cmd.Process.Wait() // not Cmd.Wait, which would wait for whoever else has its pipe
		if err == nil && !state.Success() {
			err = errors.New(state.String())
		}
		l.err = err
		close(l.ended)
	}()
	return l
}

// read takes the log of a life.
func (a *agent) read(l *life, out *os.File, lines int) {
	defer out.Close()
	in := bufio.NewScanner(out)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		a.mu.Lock()
		a.log = append(a.log, in.Text())
		a.mu.Unlock()
		if lines--; lines == 0 {
			close(l.lines)
		}
		if strings.Contains(in.Text(), `"message":"ready"`) {
			close(l.ready)
			a.mu.Lock()
			if !l.over {
				close(a.up)
			}
			a.mu.Unlock()
		}
	}
}

// kill ends the daemon with SIGKILL, if it lives, and returns when it is reaped.
func (a *agent) kill() {
	a.down()
	_ = a.life.cmd.Process.Kill() // it may have ended
	<-a.life.ended
	a.note("==== the daemon was killed ====")
}

// terminate ends the daemon with SIGTERM, as it should end.
func (a *agent) terminate() error {
	a.down()
	if err := a.life.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-a.life.ended
	return a.life.err
}

// down makes clients that look for the daemon wait for its next life.
func (a *agent) down() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.life.over = true
	select {
	case <-a.up:
		a.up = make(chan struct{})
	default:
	}
}

// dial connects to the daemon, as soon as it accepts work.
func (a *agent) dial(ctx context.Context) (*client.Client, error) {
	for {
		a.mu.Lock()
		up := a.up
		a.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		c, err := client.Dial(ctx, filepath.Join(a.state, "api.sock"))
		if !errors.Is(err, client.ErrNoConnection) { // killed meanwhile
			return c, err
		}
	}
}

// after lets fire receive something after n events from now on.
func (a *agent) after(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left = n
}

// event counts something that a client has done or seen.
func (a *agent) event() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left == 0 {
		return
	}
	if a.left--; a.left == 0 {
		a.fire <- struct{}{}
	}
}

func (a *agent) note(line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, line)
}

// tail returns the last n lines of the log that contain text.
func (a *agent) tail(n int, text string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []string
	for i := len(a.log) - 1; i >= 0 && len(found) < n; i-- {
		if strings.Contains(a.log[i], text) {
			found = append([]string{a.log[i]}, found...)
		}
	}
	return found
}

// logged counts the lines of the log that contain text.
func (a *agent) logged(text string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, line := range a.log {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
