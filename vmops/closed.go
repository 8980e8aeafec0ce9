package vmops

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/tasks"
)

// closure is what keeps new work out of this host. What it is told lasts over a restart of the agent. Each is idempotent.
type closure interface {
	Close(s *tasks.Scope) error
	Open(s *tasks.Scope) error
	Closed() bool
}

// crew is the task engine as steps ask it.
type crew interface {
	Submit(ctx context.Context, s *tasks.Scope, sub tasks.Submission) error
	Stop(s *tasks.Scope, id, who string) error
	Summary(id string) (tasks.Summary, error)
	List(f tasks.Filter) []tasks.Summary
}

// scopedTasks is the engine itself, which need not know the step.
type scopedTasks struct{ tasks func() Tasks }

func (t scopedTasks) Submit(ctx context.Context, _ *tasks.Scope, sub tasks.Submission) error {
	_, err := t.tasks().Submit(ctx, sub)
	return err
}

func (t scopedTasks) Stop(_ *tasks.Scope, id, who string) error {
	return t.tasks().Stop(id, tasks.StopOptions{Who: who})
}

func (t scopedTasks) Summary(id string) (tasks.Summary, error) { return t.tasks().Summary(id) }

func (t scopedTasks) List(f tasks.Filter) []tasks.Summary { return t.tasks().List(f) }

// mark is a file that is there as long as this host is closed, and the engine, which refuses new tasks meanwhile.
type mark struct {
	file  string // "" = nothing lasts
	tasks func() Tasks

	mu     sync.Mutex
	closed bool
}

// closing is what is in the file.
type closing struct {
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// Recall closes the host if it was closed when the agent ended. It is called once, before anybody can submit a task.
func (vms *VMs) Recall() {
	m, real := vms.closed.(*mark)
	if !real || m.file == "" {
		return
	}
	data, err := os.ReadFile(m.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	c := closing{Who: "somebody"}
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil { // that it is there is what counts
		vms.log.Error().Err(err).Str("file", m.file).Msg("it cannot be read who has this host in maintenance")
	}
	m.refuse(c)
}

func (m *mark) refuse(c closing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.tasks().Refuse(tasks.Drain(c))
}

// Close puts the mark on stable storage, then refuses new tasks.
func (m *mark) Close(s *tasks.Scope) error {
	c := closing{Who: s.Who(), Since: time.Now().UTC()}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if m.file != "" {
		if err := writeSynced(m.file, data); err != nil {
			return code.Errorf(code.General, "it cannot be recorded that this host goes into maintenance: %w", err)
		}
	}
	m.refuse(c)
	return nil
}

// Open removes the mark, then takes new tasks.
func (m *mark) Open(*tasks.Scope) error {
	if m.file != "" {
		err := os.Remove(m.file)
		if err == nil {
			err = syncDir(filepath.Dir(m.file))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return code.Errorf(code.General, "it cannot be recorded that this host leaves maintenance: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = false
	m.tasks().Accept()
	return nil
}

// Closed says whether no machines may come to this host.
func (m *mark) Closed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// writeSynced writes a file, and returns when it is on stable storage.
func writeSynced(file string, data []byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// refused is for machines that would come to a host that is closed.
func (vms *VMs) refused() error {
	if vms.closed.Closed() {
		return code.Errorf(code.ResourceUnavailable, "this host is in maintenance, or goes into it, and no machine may come to it; Host.leaveMaintenance ends that")
	}
	return nil
}
