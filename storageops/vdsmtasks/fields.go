package vdsmtasks

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what is read: VDSM's own files have some hundred bytes.
const (
	maxFile  = 1 << 20
	maxParts = 10000 // jobs or recoveries of one task
)

// text are the fields whose values may go on over several lines.
var text = map[string]bool{"name": true, "runcmd": true, "message": true, "result": true}

// fields are the lines "field = value" of one file.
type fields map[string]string

// parseFields reads a file. An error says what is wrong with it, without its name.
func parseFields(data []byte) (fields, error) {
	switch {
	case len(data) == 0:
		return nil, fmt.Errorf("it is empty")
	case len(data) > maxFile:
		return nil, fmt.Errorf("it is longer than %d bytes", maxFile)
	case bytes.HasPrefix(data, []byte{0x80}):
		return nil, fmt.Errorf("it is a Python pickle")
	case !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0:
		return nil, fmt.Errorf("it is not text")
	}
	out := fields{}
	last := ""
	for n, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		switch {
		case ok && isName(name):
			out[name], last = strings.ReplaceAll(strings.TrimSpace(value), "_eq_", "="), name
		case text[last]:
			out[last] += "\n" + strings.ReplaceAll(line, "_eq_", "=")
		default:
			return nil, fmt.Errorf("line %d is not \"field = value\"; it is cut short or of something else", n+1)
		}
	}
	return out, nil
}

func isName(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' {
			return false
		}
	}
	return s != ""
}

// need returns an error that names the first field that is missing.
func (f fields) need(names ...string) error {
	for _, name := range names {
		if _, ok := f[name]; !ok {
			return fmt.Errorf("it has no %s; it is cut short", name)
		}
	}
	return nil
}

// number returns a field as a number from 0 to maxParts.
func (f fields) number(name string) (int, error) {
	n, err := strconv.Atoi(f[name])
	if err != nil || n < 0 || n > maxParts {
		return 0, fmt.Errorf("its %s is %q, which is no number from 0 to %d", name, f[name], maxParts)
	}
	return n, nil
}
