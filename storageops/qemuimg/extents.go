package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Extent is a stretch of an image whose blocks are all alike.
type Extent struct {
	Start   int64 `json:"start"`   // bytes in the virtual disk
	Length  int64 `json:"length"`  // bytes
	Depth   int   `json:"depth"`   // which layer answers: 0 = the image itself
	Present bool  `json:"present"` // some layer holds it; false = nothing does and it reads as zeros
	Zero    bool  `json:"zero"`    // reads as zeros
	Data    bool  `json:"data"`    // allocated in a file
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Start + e.Length }

// Map calls each for the extents of img, in order and without gaps, from 0 to the virtual size. It streams: a map of any
// size needs no memory. An error of each ends the walk and is returned.
func Map(ctx context.Context, st Starter, img Image, each func(Extent) error) error {
	if err := img.Check(); err != nil {
		return err
	}
	pr, pw := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		args := append([]string{"map", "--output=json"}, img.share()...)
		err := run(ctx, st, proc.Limits{}, pw, append(args, img.Node().Argument())...)
		pw.CloseWithError(err) // nil is io.EOF to the reader
		ended <- err
	}()
	parsed := parseMap(pr, each)
	pr.CloseWithError(parsed) // after an error the worker cannot write any more, and ends
	err := <-ended
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case parsed != nil && !errors.Is(parsed, err):
		return code.Or(code.General, parsed, "the map of "+img.Path+" cannot be used")
	}
	return Failure(code.ImageVerification, err, "the map of "+img.Path+" cannot be read")
}

// parseMap reads the JSON array that `qemu-img map` prints while it is being printed.
func parseMap(r io.Reader, each func(Extent) error) error {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('[') {
		return fmt.Errorf("it begins with %v", t)
	}
	next := int64(0)
	for d.More() {
		var e Extent
		if err := d.Decode(&e); err != nil {
			return err
		}
		if e.Start != next || e.Length <= 0 {
			return fmt.Errorf("an extent at %d of %d bytes follows byte %d", e.Start, e.Length, next)
		}
		next = e.End()
		if err := each(e); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}
