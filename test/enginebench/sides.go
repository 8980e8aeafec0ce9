package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"time"

	"vdsm-agent/rpc/client"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest/mock"
	"vdsm-agent/test/benchkit"

	"github.com/rs/zerolog"
)

// engine is the side in this process. It logs as the daemon does, to nowhere.
type engine struct {
	*tasks.Engine
	store *store.SQLite
}

// openEngine makes an engine with a store in dir, without limits: what is measured is not waited for.
func openEngine(dir string) (*engine, error) {
	log := zerolog.New(io.Discard).Level(zerolog.InfoLevel).With().Timestamp().Logger()
	s, err := store.Open(filepath.Join(dir, "engine.db"), store.Options{Log: log})
	if err != nil {
		return nil, err
	}
	e := &engine{tasks.New(tasks.Options{Store: s, Verbs: mock.Verbs(mock.NewWorld()), Log: log}), s}
	if err := e.Start(nil); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return e, nil
}

func (e *engine) submit(_ int, params string) (string, error) {
	return e.Submit(context.Background(), tasks.Submission{Verb: "Mock.run", Params: json.RawMessage(params), Who: who})
}

func (e *engine) wait(_ int, id string) error {
	_, err := e.Wait(context.Background(), id, tasks.Ended)
	return err
}

func (e *engine) stop(_ int, id string) error { return e.Stop(id, tasks.StopOptions{Who: who}) }

func (e *engine) close() error {
	const limit = 30 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return errors.Join(e.Close(ctx), e.store.Close())
}

// socket is a daemon, with a connection for each client.
type socket struct {
	*benchkit.Daemon
	conns []*client.Client
}

func (b *bench) openEngine(dir string) (side, error) { return openEngine(dir) }

func (b *bench) openSocket(dir string) (side, error) {
	d, err := benchkit.Start(b.ctx, b.agentd, filepath.Join(dir, "state"), "[debug]", "mock_verb = true", "[tasks]", "queue_limit = 0", "copy_limit = 0")
	if err != nil {
		return nil, err
	}
	s := &socket{Daemon: d}
	for range clients {
		c, err := d.Dial(b.ctx)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.conns = append(s.conns, c)
	}
	return s, nil
}

func (s *socket) submit(client int, params string) (id string, err error) {
	err = s.conns[client].Call(context.Background(), "Mock.run", json.RawMessage(params), &id)
	return id, err
}

func (s *socket) wait(client int, id string) error {
	return s.conns[client].Call(context.Background(), "Task.wait", map[string]string{"taskID": id}, nil)
}

func (s *socket) stop(client int, id string) error {
	return s.conns[client].Call(context.Background(), "Task.stop", map[string]string{"taskID": id}, nil)
}

func (s *socket) close() error {
	var errs []error
	for _, c := range s.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, s.Stop())...)
}
