package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/rpc/wire"

	"github.com/rs/zerolog"
)

// agentView is what the running daemon knows of a domain.
type agentView struct {
	runs, serves bool              // a daemon answers; it has this domain
	tasks        map[string]bool   // all that it lists
	images       map[string]string // of the domain that a task is at work with, with the task
}

// said is the view in a word.
func (a *agentView) said() string {
	switch {
	case a.serves:
		return "serving"
	case a.runs:
		return "other"
	}
	return "none"
}

func (a *agentView) known(task string) bool       { return a.tasks[task] }
func (a *agentView) busy(image string) (t string) { return a.images[image] }

// agentOf asks the daemon, if one runs, about the domain in a directory. That none runs is no error.
func (c *cli) agentOf(ctx context.Context, path string) (*agentView, error) {
	a := &agentView{tasks: map[string]bool{}, images: map[string]string{}}
	id := filepath.Base(path)
	ids, err := c.domainIDs(ctx)
	var silent *unreachable
	if errors.As(err, &silent) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	a.runs = true
	for _, other := range ids {
		var info domainInfo
		if other == id && c.daemon.call(ctx, "StorageDomain.getInfo", map[string]string{"storagedomainID": id}, &info) == nil {
			a.serves = sameDir(filepath.Join(info.Path, id), path)
		}
	}
	// A domain whose metadata is damaged cannot say where it is; its repair would fail too.
	if !a.serves {
		return a, nil
	}
	return a, c.atWork(ctx, id, a)
}

// atWork finds out which images tasks have locked.
func (c *cli) atWork(ctx context.Context, id string, a *agentView) error {
	all := map[string]wire.Task{}
	if err := c.daemon.call(ctx, "Host.getAllTasks", nil, &all); err != nil {
		return err
	}
	for task, t := range all {
		a.tasks[task] = true
		if final(t) {
			continue
		}
		var details wire.Details
		err := c.daemon.call(ctx, "Task.getDetails", map[string]string{"taskID": task}, &details)
		if isCode(err, code.UnknownTask) {
			continue // cleared since it was listed
		}
		if err != nil {
			return err
		}
		for _, lock := range details.Locks {
			if image, ours := strings.CutPrefix(lock.Key, "image/"+id+"/"); ours && lock.Exclusive {
				a.images[image] = task
			}
		}
	}
	return nil
}

func sameDir(a, b string) bool {
	one, err := os.Stat(a)
	two, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(one, two)
}

// checker runs qemu-img for a check, in process groups of this program.
type checker struct{ workers *proc.Manager }

// newChecker makes one; end kills what is left of it.
func newChecker() (q *checker, end func(), err error) {
	dir, err := os.MkdirTemp("", program+"-")
	if err != nil {
		return nil, nil, err
	}
	m, err := proc.New(proc.Options{Dir: dir, Cgroup: "off", Name: program, Log: zerolog.Nop()})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &checker{m}, func() {
		_ = m.Close() // what does not die in time has its SIGKILL
		_ = os.RemoveAll(dir)
	}, nil
}

// Start is qemuimg.Starter's.
func (q *checker) Start(ctx context.Context, s proc.Spec) (*proc.Worker, error) {
	s.Task = program
	w, err := q.workers.Start(s)
	if err == nil {
		context.AfterFunc(ctx, w.Terminate)
	}
	return w, err
}
