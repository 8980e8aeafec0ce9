package vdsmtasks

import "strings"

// parseCommand takes apart how VDSM prints a job: "<bound method …> (args: ('a', 'b') kwargs: {'c': 'd'})".
func parseCommand(j *Job, printed string) {
	command, rest, ok := strings.Cut(printed, " (args: (")
	if !ok {
		j.Raw = printed
		return
	}
	args, rest := values(rest)
	_, rest, named := strings.Cut(rest, "kwargs: {")
	j.Command, j.Args = command, args
	if !named {
		return
	}
	pairs, _ := values(rest)
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, ": ")
		j.Args = append(j.Args, strings.Trim(name, `'"`)+"="+strings.Trim(value, `'"`))
	}
}

// withoutPrefix takes away the letter before a quote by which Python 2 marks text, and Python 3 bytes.
func withoutPrefix(s string) string {
	for _, prefix := range []string{"u", "b"} {
		if before, ok := strings.CutSuffix(s, prefix); ok && (before == "" || strings.HasSuffix(before, " ")) {
			return before
		}
	}
	return s
}

// values reads Python values up to the bracket that closes them: strings without their quotes, all else as it is printed. It
// also returns what follows the bracket.
func values(s string) (out []string, rest string) {
	var v strings.Builder
	depth, quote, wasQuoted := 0, byte(0), false
	end := func() {
		if text := strings.TrimSpace(v.String()); text != "" || wasQuoted {
			out = append(out, text)
		}
		v.Reset()
		wasQuoted = false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == '\\' && i+1 < len(s):
			i++
			v.WriteByte(s[i])
		case quote != 0 && c == quote:
			quote = 0
			if depth > 0 {
				v.WriteByte(c)
			}
		case quote != 0:
			v.WriteByte(c)
		case c == '\'' || c == '"':
			quote, wasQuoted = c, true
			if depth > 0 {
				v.WriteByte(c)
			} else {
				before := withoutPrefix(v.String())
				v.Reset()
				v.WriteString(before)
			}
		case strings.IndexByte("([{<", c) >= 0:
			depth++
			v.WriteByte(c)
		case strings.IndexByte(")]}>", c) >= 0 && depth > 0:
			depth--
			v.WriteByte(c)
		case strings.IndexByte(")]}", c) >= 0:
			end()
			return out, s[i+1:]
		case c == ',' && depth == 0:
			end()
		default:
			v.WriteByte(c)
		}
	}
	end()
	return out, ""
}
