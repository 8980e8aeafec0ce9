package stomp

import (
	"strconv"
	"strings"
)

// Header is one header of a frame.
type Header struct{ Name, Value string }

// Frame is one frame that was read. Its body is valid until the next is.
type Frame struct {
	Command string
	Headers []Header
	Body    []byte
}

// Get returns a header's value: of one that is there twice, the first. An absent one is "".
func (f *Frame) Get(name string) string {
	value, _ := f.Lookup(name)
	return value
}

// Lookup returns a header's value, and whether it is there.
func (f *Frame) Lookup(name string) (value string, there bool) {
	for _, h := range f.Headers {
		if h.Name == name {
			return h.Value, true
		}
	}
	return "", false
}

// Append writes a whole frame behind dst. A frame with a body gets its content-length as the last header, one with none (nil) has
// no such header, as VDSM writes them.
func Append(dst []byte, command string, headers []Header, body [][]byte) []byte {
	dst = append(append(dst, command...), '\n')
	for _, h := range headers {
		dst = append(append(append(dst, escape(h.Name)...), ':'), escape(h.Value)...)
		dst = append(dst, '\n')
	}
	if body != nil {
		dst = append(dst, contentLength+":"...)
		dst = append(strconv.AppendInt(dst, int64(size(body)), 10), '\n')
	}
	dst = append(dst, '\n')
	for _, piece := range body {
		dst = append(dst, piece...)
	}
	return append(dst, 0)
}

const contentLength = "content-length"

func size(body [][]byte) (n int) {
	for _, piece := range body {
		n += len(piece)
	}
	return n
}

var escaping = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, ":", `\c`)

// escape is applied to all frames, also to those that STOMP exempts: so does VDSM.
func escape(s string) string {
	if !strings.ContainsAny(s, "\\\n\r:") {
		return s
	}
	return escaping.Replace(s)
}

// unescape answers false for an escape that STOMP does not know. What has no backslash is taken as it is: the engine's client
// never escapes, and sends addresses with colons.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, `\`) {
		return s, true
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", false
		}
		switch s[i] {
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 'c':
			out.WriteByte(':')
		case '\\':
			out.WriteByte('\\')
		default:
			return "", false
		}
	}
	return out.String(), true
}
