package show

// Colour is what a text means, not what it looks like.
type Colour string

// The colours, as the numbers of terminals.
const (
	Plain Colour = ""
	Good  Colour = "32" // green
	Warn  Colour = "33" // yellow
	Bad   Colour = "31" // red
	Bold  Colour = "1"
	Dim   Colour = "2"
)

// Style says whether colours are used. The zero value is a style without.
type Style struct{ Colours bool }

// Paint returns s in that colour.
func (st Style) Paint(c Colour, s string) string {
	if !st.Colours || c == Plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}
