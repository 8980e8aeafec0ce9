package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// output is standard output. It remembers the first error, so that no command needs to look at each write.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	o.err = err
	return n, err
}

// failure is what the user should know of the first error: nothing, if nobody reads any more.
func (o *output) failure() error {
	if o.err == nil || errors.Is(o.err, syscall.EPIPE) || errors.Is(o.err, syscall.EBADF) || errors.Is(o.err, io.ErrClosedPipe) {
		return nil
	}
	return fail(exitRefused, "the output could not be written: %s", o.err)
}

// show prints v as JSON if the user asked for it, else what text prints.
func (c *cli) show(v any, text func() error) error {
	if !c.JSON {
		return text()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("the answer cannot be written as JSON: %w", err)
	}
	c.printf("%s\n", b)
	return nil
}

// printf prints to standard output; errors are seen at the end of run.
func (c *cli) printf(format string, args ...any) { fmt.Fprintf(c.stdout, format, args...) }
