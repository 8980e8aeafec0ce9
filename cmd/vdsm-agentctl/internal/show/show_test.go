package show

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1<<20 - 1: "1.0 MiB", 1047527424: "999.0 MiB",
		1 << 30: "1.0 GiB", 64 << 40: "64.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	if Rate(0) != "" || Rate(-1) != "" || Rate(1<<20) != "1.0 MiB/s" {
		t.Error("a rate that is not known has no text, a known one has")
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 59*time.Second + 999*time.Millisecond: "59 s", time.Minute: "1 min", 59 * time.Minute: "59 min",
		time.Hour: "1 h", 125 * time.Minute: "2 h 5 min", 24 * time.Hour: "1 d", 99 * time.Hour: "4 d 3 h",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestRelative(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for at, want := range map[time.Time]string{
		{}: "-", now: "just now", now.Add(-200 * time.Second): "3 min ago", now.Add(23 * time.Hour): "in 23 h", now.Add(time.Millisecond): "just now",
	} {
		if got := Relative(now, at); got != want {
			t.Errorf("Relative(%s) = %q, want %q", at, got, want)
		}
	}
	if Time(time.Time{}) != "-" || Time(now.Local()) != now.Local().Format(time.DateTime) {
		t.Error("Time writes local time, and a dash for none")
	}
}

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		want        int
	}{{0, 0, 0}, {5, 0, 0}, {1, 3, 33}, {999, 1000, 99}, {3, 3, 100}, {9, 3, 100}, {-1, 3, 0}, {1<<62 - 1, 1 << 62, 100}} {
		if got := Percent(c.done, c.total); got != c.want {
			t.Errorf("Percent(%d, %d) = %d, want %d", c.done, c.total, got, c.want)
		}
	}
	if got := Bar(1, 2, 12); got != "[#####-----]" {
		t.Error(got)
	}
}

func TestText(t *testing.T) {
	if got := Clean("a\nb\tc\x1b[31m\x7f\u009b\u202ed"); got != "a b c?[31m???d" {
		t.Errorf("%q", got)
	}
	if got := Cut("volume", 4); got != "vol…" {
		t.Errorf("%q", got)
	}
	if got := Cut("巻巻巻", 4); Width(got) > 4 {
		t.Errorf("%q is wider than 4", got)
	}
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 5, []string{""}},
		{"one two  three", 7, []string{"one two", "three"}},
		{"a longerthanthat b", 5, []string{"a", "longe", "rthan", "that", "b"}},
		{"巻巻", 1, []string{"巻巻"}},
	} {
		if got := Wrap(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("Wrap(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	write := func(table *Table) string {
		var b strings.Builder
		if err := table.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	table := &Table{Columns: []Column{{Head: "NAME"}, {Head: "SIZE", Right: true}, {Head: "WHAT", Wrap: 8}}}
	if got := write(table); got != "" {
		t.Errorf("without rows: %q", got)
	}
	table.Add("a", "10", "one two three")
	table.Add("longer", "5", "")
	want := "NAME    SIZE  WHAT\na         10  one two\n              three\nlonger     5\n"
	if got := write(table); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	cut := &Table{Columns: []Column{{Head: "A"}, {Head: "B"}}, Width: 10, Style: Style{Colours: true}}
	cut.AddCells(Cell{"x", Bad}, Cell{"much too long\x1b", Plain})
	want = "\x1b[1mA\x1b[0m  \x1b[1mB\x1b[0m\n\x1b[31mx\x1b[0m  much t…\n"
	if got := write(cut); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
