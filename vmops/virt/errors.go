package virt

import (
	"errors"
	"syscall"

	"vdsm-agent/internal/code"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
)

// unreachableError means that libvirt did not answer: what was asked may have happened or not.
type unreachableError struct{ error }

func (e unreachableError) Unwrap() error { return e.error }

func unreachable(format string, args ...any) error {
	return unreachableError{code.Errorf(code.ResourceUnavailable, format, args...)}
}

// Unreachable says whether err means that libvirt gave no answer: it is not there, the connection broke, or a deadline passed. Whether the
// effect is there is to be found out when it answers again.
func Unreachable(err error) bool {
	return errors.As(err, new(unreachableError))
}

// explained makes of libvirt's error one with a code.
func explained(what string, err error) error {
	var said libvirt.Error
	var coded *code.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded):
		return err
	case !errors.As(err, &said) || errors.Is(err, syscall.EINVAL):
		return unreachable("the connection to libvirt broke when it was asked to %s: %w", what, err)
	case libvirt.ErrorNumber(said.Code) == libvirt.ErrNoDomain:
		return code.Errorf(code.NoSuchVM, "libvirt knows no such virtual machine: %w", err)
	case libvirt.ErrorNumber(said.Code) == libvirt.ErrDomExist:
		return code.Errorf(code.VMExists, "libvirt has such a virtual machine already: %w", err)
	case libvirt.ErrorNumber(said.Code) == libvirt.ErrOperationInvalid:
		return invalidError{code.Errorf(code.ResourceUnavailable, "libvirt cannot %s now: %w", what, err)}
	}
	if err := guestExplained(what, said); err != nil {
		return err
	}
	return code.Errorf(code.General, "libvirt could not %s: %w", what, err)
}

// invalidError means that the machine is not in a state in which that can be asked.
type invalidError struct{ error }

func (e invalidError) Unwrap() error { return e.error }

// Invalid says whether libvirt refused because of the state that the machine is in: it does not run, or has no job, or another one.
func Invalid(err error) bool { return errors.As(err, new(invalidError)) }

func parse(vm string) (libvirt.UUID, error) {
	id, err := uuid.Parse(vm)
	if err != nil {
		return libvirt.UUID{}, code.Errorf(code.InvalidParameter, "%q is not the id of a virtual machine", vm)
	}
	return libvirt.UUID(id), nil
}

func text(id libvirt.UUID) string { return uuid.UUID(id).String() }

// ErrUnreachable and ErrInvalid make errors that Unreachable and Invalid know, for what stands in for libvirt in tests.
func ErrUnreachable(text string) error { return unreachable("%s", text) }

// ErrInvalid is the other; see ErrUnreachable.
func ErrInvalid(text string) error {
	return invalidError{code.Errorf(code.ResourceUnavailable, "%s", text)}
}
