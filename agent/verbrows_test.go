package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops"

	"github.com/rs/zerolog"
)

// TestVerbRows: the row of each verb in docs/verbs.md, its declaration, and what Host.getCancelContract answers say the same in
// the same words, and the page names the verbs that there are.
func TestVerbRows(t *testing.T) {
	text, err := os.ReadFile("../docs/verbs.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, there := verbRows(string(text)), listedVerbs(t, string(text))
	verbs := verbs(storageops.New(storageops.Options{}), vmops.New(vmops.Options{}))
	answer := askContracts(t, verbs)
	for _, v := range verbs {
		if len(rows[v.Name]) != 1 {
			t.Errorf("%s has %d rows in docs/verbs.md, not one", v.Name, len(rows[v.Name]))
			continue
		}
		row := rows[v.Name][0]
		compare(t, v.Name+", its declaration", row, wordedRow(v.Word, wire.ContractOf(v.Contract, v.Forward)))
		compare(t, v.Name+", Host.getCancelContract", row, wordedRow(v.Word, answer[v.Name]))
		if !slices.Contains(there, v.Name) {
			t.Errorf("docs/verbs.md does not say that there is %s now", v.Name)
		}
		if answer[v.Name].Forward != v.Forward {
			t.Errorf("%s: forward is %t in Host.getCancelContract, but declared otherwise", v.Name, answer[v.Name].Forward)
		}
	}
	if len(there) != len(verbs) || len(answer) != len(verbs) {
		t.Errorf("docs/verbs.md says that there are %v, Host.getCancelContract answers %d verbs, and there are %d", there, len(answer), len(verbs))
	}
}

// verbRow is what a row of docs/verbs.md says about a verb.
type verbRow struct{ word, until, noReturn, decidedBy, undo, remainder, revert, bound string }

func wordedRow(word string, c wire.Contract) verbRow {
	return verbRow{
		word, c.CancellableUntil, c.PointOfNoReturn, c.DecidedBy, c.Undo, c.Remainder, c.Revert,
		fmt.Sprintf("%g s", c.BoundSeconds),
	}
}

func compare(t *testing.T, what string, row, have verbRow) {
	t.Helper()
	for _, f := range []struct{ name, row, have string }{
		{"VDSM's word", row.word, have.word}, {"cancellable until", row.until, have.until}, {"point of no return", row.noReturn, have.noReturn},
		{"decided by", row.decidedBy, have.decidedBy}, {"undo", row.undo, have.undo}, {"remainder", row.remainder, have.remainder},
		{"revert", row.revert, have.revert}, {"bound", row.bound, have.bound},
	} {
		if f.row != f.have {
			t.Errorf("%s: %s is %q, docs/verbs.md says %q", what, f.name, f.have, f.row)
		}
	}
}

// verbRows reads the tables of the page, by verb.
func verbRows(page string) map[string][]verbRow {
	out := map[string][]verbRow{}
	for line := range strings.Lines(page) {
		line = strings.ReplaceAll(line, `\|`, "or")
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "|") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		row := verbRow{until: cells[2], noReturn: noReturn(cells[1]), bound: cells[5]}
		row.undo, row.remainder = undoAndRemainder(cells[3])
		row.revert = revert(cells[4], row.undo)
		_, row.decidedBy, _ = strings.Cut(cells[0], "decidedBy ")
		for name, word := range namesOf(cells[0]) {
			row.word = word
			out[name] = append(out[name], row)
		}
	}
	return out
}

var nameOrWord = regexp.MustCompile(`[A-Z][A-Za-z]*\.[a-z][A-Za-z_]*|\[[^]]+\]`)

// namesOf finds the verbs of a row. VDSM's word in brackets is that of all names since the word before.
func namesOf(cell string) map[string]string {
	out := map[string]string{}
	var without []string
	for _, found := range nameOrWord.FindAllString(cell, -1) {
		if !strings.HasPrefix(found, "[") {
			without = append(without, found)
			out[found] = ""
			continue
		}
		if word := strings.Trim(found, "[]"); word != "local task" {
			for _, name := range without {
				out[name] = word
			}
		}
		without = nil
	}
	return out
}

var condition = regexp.MustCompile("with `(\\w+)`: \\*\\*PNR")

// noReturn makes the sentence of a declaration of the steps that are marked PNR: "wipe", or with a condition.
func noReturn(steps string) string {
	always, sometimes, when := "", "", ""
	for step := range strings.SplitSeq(steps, " · ") {
		_, name, marked := strings.Cut(step, "**PNR** ")
		if !marked {
			continue
		}
		name = strings.TrimSpace(strings.FieldsFunc(name, func(r rune) bool { return strings.ContainsRune(",;(", r) })[0])
		if c := condition.FindStringSubmatch(step); c != nil {
			sometimes, when = name, c[1]
		} else {
			always = name
		}
	}
	switch {
	case sometimes == "":
		return always
	case always == "":
		return sometimes + " (only with " + when + ")"
	}
	return always + " (with " + when + ": " + sometimes + ")"
}

func undoAndRemainder(cell string) (undo, remainder string) {
	undo, remainder, _ = strings.Cut(cell, "*remainder*")
	return strings.TrimRight(undo, "; "), strings.TrimLeft(remainder, ": ")
}

var reference = regexp.MustCompile(` \(G\d+\)`)

// revert is the cell without references; "the same" is the undo.
func revert(cell, undo string) string {
	if strings.HasPrefix(cell, "NotRevertible") {
		return "NotRevertible"
	}
	if rest, same := strings.CutPrefix(cell, "the same"); same {
		cell = undo + rest
	}
	return reference.ReplaceAllString(cell, "")
}

// listedVerbs are those that the page says that there are now.
func listedVerbs(t *testing.T, page string) []string {
	t.Helper()
	_, rest, found := strings.Cut(page, "**There are now:** ")
	list, _, ended := strings.Cut(rest, ". All other rows are to come.")
	if !found || !ended {
		t.Fatal("docs/verbs.md does not say which verbs there are now")
	}
	return strings.Split(list, ", ")
}

// askContracts asks a server of these verbs for the whole matrix, as a client does.
func askContracts(t *testing.T, verbs []*tasks.Verb) map[string]wire.Contract {
	t.Helper()
	engine := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: verbs, Log: zerolog.Nop()})
	if err := engine.Start(nil); err != nil {
		t.Fatal(err)
	}
	server := rpc.New(rpc.Options{Log: zerolog.Nop()})
	server.Handle(rpc.Methods(engine, nil))
	server.SetReady()
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.ServeMessages(t.Context(), stream.NewLines(far, stream.MaxMessage), rpc.Peer{Name: "tester", Role: access.Admin})
	}()
	c := client.New(near)
	var answer wire.Contracts
	if err := c.Call(t.Context(), "Host.getCancelContract", nil, &answer); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-served
	if err := engine.Close(context.Background()); err != nil {
		t.Error(err)
	}
	return answer.Verbs
}

// TestRowsAreRead: what a row says is found in all of its forms.
func TestRowsAreRead(t *testing.T) {
	page := "| A.one, A.two [ab], B.three [b]; decidedBy qemu | x · with `postZero`: **PNR** wipe (`a \\| b`) · y | z | all back; *remainder*: part | the same, unless wiped | 5 s |\n" +
		"| C.four (ours) [local task] | with `zero`: **PNR** wipe · **PNR** unlink, in pieces | started | *remainder* as ever | NotRevertible (harmless) | 10 s |\n" +
		"| D.five_six | one · **PNR** two; three | end | gone | to the trash; refused (G8) | 1 s |\n"
	one := verbRow{"ab", "z", "wipe (only with postZero)", "qemu", "all back", "part", "all back, unless wiped", "5 s"}
	two, three := one, one
	three.word = "b"
	want := map[string]verbRow{
		"A.one": one, "A.two": two, "B.three": three,
		"C.four":     {"", "started", "unlink (with zero: wipe)", "", "", "as ever", "NotRevertible", "10 s"},
		"D.five_six": {"", "end", "two", "", "gone", "", "to the trash; refused", "1 s"},
	}
	got := verbRows(page)
	for name, row := range want {
		if len(got[name]) != 1 || got[name][0] != row {
			t.Errorf("%s: got %+v, want %+v", name, got[name], row)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d verbs were found", len(got))
	}
}
