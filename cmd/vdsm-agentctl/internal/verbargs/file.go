package verbargs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxFile is how many bytes a file of parameters may have: what the daemon takes in one request.
const MaxFile = 16 << 20

// Read reads parameters from a JSON object. name says in errors where it came from; the position is line and column,
// counted from 1.
func Read(r io.Reader, name string) (Params, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read: %w", name, err)
	case len(data) > MaxFile:
		return nil, fmt.Errorf("%s is larger than the %d MiB that the daemon takes in one request", name, MaxFile>>20)
	}
	out := Params{}
	err = json.Unmarshal(data, &out)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		line, column := position(data, syntax.Offset)
		return nil, fmt.Errorf("%s is not JSON: line %d, column %d: %w", name, line, column, syntax)
	case err != nil, out == nil: // null leaves a nil map
		return nil, fmt.Errorf("%s must be a JSON object with a value for each parameter", name)
	}
	return out, nil
}

// position turns the offset after the offending byte into a line and a column.
func position(data []byte, offset int64) (line, column int) {
	before := data[:max(0, min(int64(len(data)), offset)-1)]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}
