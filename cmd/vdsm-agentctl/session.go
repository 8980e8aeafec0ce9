package main

import (
	"context"
	"errors"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/client"
)

// connection is what the program needs of rpc/client.
type connection interface {
	Call(ctx context.Context, method string, params, result any) error
	Subscribe(ctx context.Context, topics ...string) error
	Next(ctx context.Context) (client.Event, error)
	Close() error
}

const (
	callLimit  = 60 * time.Second // for the answer of a verb that waits for nothing
	retryEvery = 250 * time.Millisecond
)

// session is the connection to the daemon, made when it is first needed. It is used by one goroutine.
type session struct {
	dial     func(ctx context.Context, to target) (connection, error)
	to       target
	patience time.Duration // with a daemon that is starting
	note     func(format string, args ...any)
	conn     connection
	met      bool // there was a connection
	noted    string
}

// call calls a verb that answers soon. While the daemon is starting it is called again, up to the session's patience:
// with code 99 nothing was done. A connection that is lost is not made again, since the verb may have been carried out.
func (s *session) call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit+s.patience)
	defer cancel()
	return s.retry(ctx, starting, func(ctx context.Context) error { return s.once(ctx, method, params, result) })
}

// follow calls a verb that changes nothing, may wait for long, and is called again after a restart of the daemon. params
// is asked before each try.
func (s *session) follow(ctx context.Context, method string, params func() any, result any) error {
	passing := func(err error) bool { return starting(err) || s.met && restarting(err) }
	return s.retry(ctx, passing, func(ctx context.Context) error { return s.once(ctx, method, params(), result) })
}

// unlimited calls any verb, however long it takes.
func (s *session) unlimited(ctx context.Context, method string, params, result any) error {
	return s.retry(ctx, starting, func(ctx context.Context) error { return s.once(ctx, method, params, result) })
}

// retry tries until it works, fails with an error that does not pass, or has failed for the whole of the session's patience.
func (s *session) retry(ctx context.Context, passes func(error) bool, try func(context.Context) error) error {
	begun := time.Now()
	deadline := begun.Add(s.patience)
	for {
		err := try(ctx)
		if err == nil || !passes(err) || ctx.Err() != nil {
			return err
		}
		now := time.Now()
		if now.Sub(begun) >= s.patience && s.patience > 0 {
			deadline = now.Add(s.patience) // this try was answered, or waited, for long: the trouble is new
		}
		if !now.Before(deadline) {
			return err
		}
		s.tell(err)
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
		begun = time.Now()
	}
}

// tell says once why it takes longer.
func (s *session) tell(err error) {
	text := "the daemon is restarting; waiting for it"
	var refusal *client.Error
	if errors.As(err, &refusal) && starting(err) {
		text = refusal.Message
	}
	if text != s.noted {
		s.note("%s", text)
		s.noted = text
	}
}

func (s *session) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	conn, err := s.dial(ctx, s.to)
	if err != nil {
		return &unreachable{s.to, err}
	}
	s.conn, s.met = conn, true
	return nil
}

func (s *session) once(ctx context.Context, method string, params, result any) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	err := s.conn.Call(ctx, method, params, result)
	if errors.Is(err, client.ErrConnectionLost) {
		s.close()
	}
	return err
}

// follows does something with a connection that is good, again after a restart of the daemon.
func (s *session) follows(ctx context.Context, begin func(*session) error) error {
	passing := func(err error) bool { return starting(err) || s.met && restarting(err) }
	return s.retry(ctx, passing, func(ctx context.Context) error {
		if err := s.connect(ctx); err != nil {
			return err
		}
		err := begin(s)
		if errors.Is(err, client.ErrConnectionLost) {
			s.close()
		}
		return err
	})
}

func (s *session) close() {
	if s.conn != nil {
		_ = s.conn.Close() // nothing more is asked of it
		s.conn = nil
	}
}

func starting(err error) bool { return isCode(err, code.RecoveryInProgress) }

// restarting says whether the error is one that a daemon's restart makes.
func restarting(err error) bool {
	return errors.Is(err, client.ErrConnectionLost) || errors.Is(err, client.ErrNoConnection) || isCode(err, code.ShuttingDown)
}
