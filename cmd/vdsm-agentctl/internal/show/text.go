package show

import (
	"strings"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// Clean makes text from elsewhere fit for a terminal: one line, and no control characters, which could move the cursor or
// rename the window.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.In(r, unicode.Cf), r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}

// Width is how many columns s takes.
func Width(s string) int { return runewidth.StringWidth(s) }

// Cut shortens s to at most width columns, with an ellipsis for what is gone.
func Cut(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	return runewidth.Truncate(s, max(width, 1), "…")
}

// Wrap breaks s at spaces into lines of at most width columns; a longer word is broken where the line ends.
func Wrap(s string, width int) []string {
	width = max(width, 1)
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		for {
			if joined := strings.TrimPrefix(line+" "+word, " "); Width(joined) <= width {
				line = joined
				break
			}
			if line != "" {
				lines, line = append(lines, line), ""
				continue
			}
			head := runewidth.Truncate(word, width, "")
			if head == "" { // one character wider than the line
				line = word
				break
			}
			lines, word = append(lines, head), word[len(head):]
		}
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}

// Bar draws how much of total is done, width columns wide.
func Bar(done, total int64, width int) string {
	inner := max(width-2, 1)
	filled := inner * Percent(done, total) / 100
	return "[" + strings.Repeat("#", filled) + strings.Repeat("-", inner-filled) + "]"
}

func pad(s string, width int, right bool) string {
	gap := strings.Repeat(" ", max(width-Width(s), 0))
	if right {
		return gap + s
	}
	return s + gap
}
