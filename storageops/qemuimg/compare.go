package qemuimg

import (
	"context"
	"errors"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Compare tells whether two images read the same; where one is longer, the rest must be zeros.
func Compare(ctx context.Context, st Starter, a, b Image) (same bool, err error) {
	if err := errors.Join(a.Check(), b.Check()); err != nil {
		return false, err
	}
	err = run(ctx, st, proc.Limits{}, nil, "compare", "-q", a.Node().Argument(), b.Node().Argument())
	var exit *proc.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return false, nil
	}
	return err == nil, Failure(code.ImageVerification, err, a.Path+" and "+b.Path+" cannot be compared")
}
