package domain

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"vdsm-agent/internal/code"
)

// blank is what VDSM strips from keys and values.
const blank = " \t\n\r\v\f"

// parseLines reads KEY=value lines as VDSM does: trailing NULs are stripped, lines without "=" are skipped, of a key
// that comes twice the last counts, and, for volumes, a line that starts with EOF ends it.
func parseLines(data []byte, untilEOF bool) map[string]string {
	keys := make(map[string]string)
	text := string(bytes.TrimRight(data, "\x00"))
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if untilEOF && strings.HasPrefix(line, "EOF") {
			break
		}
		if key, value, ok := strings.Cut(line, "="); ok {
			keys[strings.Trim(key, blank)] = strings.Trim(value, blank)
		}
	}
	return keys
}

// sortedLines is the inverse: one "KEY=value" for each key, sorted by key. A key or value that would not come back from
// parseLines as it is here is refused with 1000.
func sortedLines(keys map[string]string) ([]string, error) {
	lines := make([]string, 0, len(keys))
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		value := keys[key]
		switch {
		case key == "" || key != strings.Trim(key, blank) || strings.ContainsAny(key, "=\n\r\x00") || strings.HasPrefix(key, "EOF"):
			return nil, code.Errorf(code.InvalidParameter, "%q cannot be a metadata key", key)
		case value != strings.Trim(value, blank) || strings.ContainsAny(value, "\n\r\x00"):
			return nil, code.Errorf(code.InvalidParameter,
				"the metadata value of %s must be one line without blanks around it, not %q", key, value)
		}
		lines = append(lines, key+"="+value)
	}
	return lines, nil
}

// take removes the key from the map and returns its value.
func take(keys map[string]string, key string) (string, bool) {
	value, ok := keys[key]
	delete(keys, key)
	return value, ok
}
