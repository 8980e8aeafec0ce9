package storageops

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/domain"
)

// mounts are the file systems that this agent mounts for engines. Whatever is done with one is done by a worker that is waited for only so
// long: a server that hangs costs a process, not the agent.
type mounts struct {
	registry *domain.Registry
	workers  *proc.Manager
	wait     time.Duration

	mu    sync.Mutex
	users map[string]map[string]bool // by mount point: the connections that want it
	busy  map[string]<-chan struct{} // by mount point: somebody is at it; closed when he is not any more
}

// mountSpec is a file system to be mounted.
type mountSpec struct {
	remote  string // what is mounted
	kind    string // type of file system
	options []string
}

// defaultMountWait is as long as an NFS client tries with VDSM's options before it gives up.
const defaultMountWait = time.Minute

// noHelpers are types whose file system is a process, which would end with the worker that mounts it.
func noHelpers(kind string) bool {
	return strings.HasPrefix(kind, "fuse") || kind == "glusterfs" || kind == "sshfs"
}

// connect mounts it, unless it is mounted, and notes who wants it. 470: no type that can be mounted. 477: it cannot be mounted, or not
// in time. 379: it is mounted but cannot be read; if it was not before, it is not then.
func (m *mounts) connect(ctx context.Context, id string, spec mountSpec) error {
	if noHelpers(spec.kind) || strings.HasPrefix(spec.kind, "-") || strings.ContainsAny(spec.kind, " ,/\n") || spec.kind == "" {
		return code.Errorf(code.MountType, "a file system of type %q is not mounted by this agent; mount it by other means and connect its directory as LOCALFS", spec.kind)
	}
	point := m.registry.MountPoint(spec.remote)
	done, err := m.enter(ctx, point)
	if err != nil {
		return err
	}
	there, err := domain.Mounted(point)
	if err == nil && !there {
		err = m.mount(ctx, point, spec, done)
	} else {
		defer done()
	}
	if err != nil {
		return err
	}
	if err := m.registry.Reach(point); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.users[point] == nil {
		m.users[point] = map[string]bool{}
	}
	m.users[point][id] = true
	return nil
}

func (m *mounts) mount(ctx context.Context, point string, spec mountSpec, done func()) error {
	if err := os.MkdirAll(point, 0o755); err != nil {
		done()
		return code.Errorf(code.Mount, "the mount point of %s cannot be made: %w", spec.remote, err)
	}
	argv := []string{"mount", "-t", spec.kind}
	if len(spec.options) > 0 {
		argv = append(argv, "-o", strings.Join(spec.options, ","))
	}
	err := m.run(ctx, append(argv, spec.remote, point), done)
	if err != nil {
		_ = os.Remove(point) // if nothing is mounted after all
		return code.Errorf(code.Mount, "%s cannot be mounted: %s", spec.remote, withoutSecrets(err, spec.options))
	}
	return nil
}

// withoutSecrets is an error of mount as it may be shown: options may hold a password.
func withoutSecrets(err error, options []string) string {
	text := err.Error()
	var exit *proc.ExitError
	if errors.As(err, &exit) {
		text = strings.TrimSpace(exit.Stderr)
	}
	for _, o := range options {
		if _, value, has := strings.Cut(o, "="); has && value != "" && strings.Contains(strings.ToLower(o), "pass") {
			text = strings.ReplaceAll(text, value, "********")
		}
	}
	return text
}

// disconnect notes that a connection is not wanted any more, and unmounts what no other wants. What is not mounted is no error.
// 477: it is in use, or does not answer.
func (m *mounts) disconnect(ctx context.Context, id, remote string) error {
	point := m.registry.MountPoint(remote)
	done, err := m.enter(ctx, point)
	if err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.users[point], id)
	others := len(m.users[point])
	m.mu.Unlock()
	there, err := domain.Mounted(point)
	if err != nil || others > 0 || !there {
		defer done()
		if err == nil && !there {
			_ = os.Remove(point) // an empty directory, or none
		}
		return err
	}
	m.registry.Release(point)
	if err := m.run(ctx, []string{"umount", point}, done); err != nil {
		return code.Errorf(code.Mount, "%s cannot be unmounted; somebody uses it, or its server does not answer: %s", remote, withoutSecrets(err, nil))
	}
	_ = os.Remove(point)
	return nil
}

// enter waits until nobody else is at the mount point. done lets the next one in.
func (m *mounts) enter(ctx context.Context, point string) (done func(), err error) {
	late := time.NewTimer(m.wait)
	defer late.Stop()
	for {
		m.mu.Lock()
		other := m.busy[point]
		if other == nil {
			mine := make(chan struct{})
			m.busy[point] = mine
			m.mu.Unlock()
			return sync.OnceFunc(func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.busy, point)
				close(mine)
			}), nil
		}
		m.mu.Unlock()
		select {
		case <-other:
		case <-late.C:
			return nil, code.Errorf(code.Mount, "%s is still being mounted or unmounted for an earlier request; its server does not answer", point)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// run runs a program, for so long at most, and calls done when it is gone, which may be much later if the kernel does not let go of it.
func (m *mounts) run(ctx context.Context, argv []string, done func()) error {
	w, err := m.workers.Start(proc.Spec{Task: argv[0], Argv: argv})
	if err != nil {
		done()
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- w.Wait()
		done()
	}()
	late := time.NewTimer(m.wait)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		err = fmt.Errorf("there was no answer within %v", m.wait)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	w.Kill()
	return err
}
