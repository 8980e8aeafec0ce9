package show

import (
	"io"
	"strings"
)

// Column is one column of a table.
type Column struct {
	Head  string
	Right bool // numbers
	Wrap  int  // > 0: cells are wrapped at that width
}

// Cell is what stands in a table. Its text is cleaned when it is written.
type Cell struct {
	Text   string
	Colour Colour
}

// Table is rows under heads. The last column ends at Width, if one is given: longer cells there are cut.
type Table struct {
	Columns []Column
	Width   int // of the terminal; 0 = nothing is cut
	Style   Style
	rows    [][]Cell
}

// Add appends a row of plain texts.
func (t *Table) Add(texts ...string) {
	row := make([]Cell, len(texts))
	for i, text := range texts {
		row[i].Text = text
	}
	t.AddCells(row...)
}

// AddCells appends a row; it has a cell for each column.
func (t *Table) AddCells(row ...Cell) {
	for i := range row {
		row[i].Text = Clean(row[i].Text)
	}
	t.rows = append(t.rows, row)
}

const gap = "  "

// Write writes the table; nothing if it has no rows.
func (t *Table) Write(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	heads := make([]Cell, len(t.Columns))
	for i, c := range t.Columns {
		heads[i] = Cell{c.Head, Bold}
	}
	all := append([][]Cell{heads}, t.rows...)
	widths := t.widths(all)
	var b strings.Builder
	for _, row := range all {
		t.write(&b, row, widths)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// widths finds how wide each column is.
func (t *Table) widths(all [][]Cell) []int {
	out := make([]int, len(t.Columns))
	used := 0
	for i, c := range t.Columns {
		for _, row := range all {
			for _, line := range lines(row[i].Text, c.Wrap) {
				out[i] = max(out[i], Width(line))
			}
		}
		if last := i == len(t.Columns)-1; last && t.Width > 0 {
			out[i] = min(out[i], max(t.Width-used, Width(c.Head)))
		}
		used += out[i] + len(gap)
	}
	return out
}

// write writes a row, which has as many lines as its longest cell.
func (t *Table) write(b *strings.Builder, row []Cell, widths []int) {
	cells := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		cells[i] = lines(cell.Text, t.Columns[i].Wrap)
		height = max(height, len(cells[i]))
	}
	for n := range height {
		line, blank := "", ""
		for i, cell := range row {
			text := ""
			if n < len(cells[i]) {
				text = Cut(cells[i][n], widths[i])
			}
			padded := pad(text, widths[i], t.Columns[i].Right)
			if text == "" {
				blank += padded + gap
				continue
			}
			trimmed := strings.TrimRight(padded, " ")
			line += blank + t.Style.Paint(cell.Colour, trimmed)
			blank = padded[len(trimmed):] + gap
		}
		b.WriteString(line + "\n")
	}
}

func lines(text string, wrap int) []string {
	if wrap > 0 {
		return Wrap(text, wrap)
	}
	return []string{text}
}
