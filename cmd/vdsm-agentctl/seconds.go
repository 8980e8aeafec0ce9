package main

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
)

// seconds is a length of time on the command line: a number of seconds, or a duration such as 5m.
type seconds float64

// UnmarshalText refuses what is negative or longer than a year.
func (s *seconds) UnmarshalText(text []byte) error {
	v, err := strconv.ParseFloat(string(text), 64)
	if d, derr := time.ParseDuration(string(text)); err != nil && derr == nil {
		v, err = d.Seconds(), nil
	}
	const year = 365 * 24 * 3600
	if err != nil || math.IsNaN(v) || v < 0 || v > year {
		return fmt.Errorf("%q is not a number of seconds (such as 30), nor a duration (such as 5m)", text)
	}
	*s = seconds(v)
	return nil
}

func (s seconds) duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// waiting is the flag --wait[=S]: whether to wait, and how long at most; 0 = without limit.
type waiting struct {
	asked bool
	limit seconds
}

// IsBool lets the flag stand alone.
func (w *waiting) IsBool() bool { return true }

// Decode takes the value after "=", if there is one.
func (w *waiting) Decode(ctx *kong.DecodeContext) error {
	w.asked = true
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	return w.limit.UnmarshalText([]byte(ctx.Scan.Pop().String()))
}
