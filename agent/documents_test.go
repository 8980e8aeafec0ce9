package agent

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops"
)

var update = flag.Bool("update", false, "write the generated documents")

// TestGeneratedDocuments: the cancel matrix and the states in docs are what the code says. `make generate` writes them.
func TestGeneratedDocuments(t *testing.T) {
	for file, text := range map[string]string{
		"../docs/cancel-matrix.md": matrix(verbs(storageops.New(storageops.Options{}), vmops.New(vmops.Options{}))),
		"../docs/states.md":        states(),
	} {
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != text {
			t.Errorf("%s is not what the code says; run `make generate`", file)
		}
	}
}

func matrix(verbs []*tasks.Verb) string {
	var b strings.Builder
	b.WriteString("# The cancel matrix\n\nGenerated from the verbs' own declarations (`make generate`); `Host.getCancelContract` and `vdsm-agentctl contract` serve the same.\n" +
		"What the words mean is in [the cancel contract](cancel-contract.md), what each verb does in [verbs](verbs.md). The bound is from the answer to `Task.stop` to the final state, on storage that answers.\n\n" +
		"| verb | cancellable until | point of no return | decided by | undo after stop | remainder | revert until clear | bound |\n|---|---|---|---|---|---|---|---|\n")
	for _, v := range verbs {
		c := v.Contract
		revert := c.Revert
		if revert == "" {
			revert = "NotRevertible"
		}
		fmt.Fprintf(&b, "| %s", v.Name)
		if v.Word != "" {
			fmt.Fprintf(&b, " [%s]", v.Word)
		}
		fmt.Fprintf(&b, " | %s | %s | %s | %s | %s | %s | %s |\n", c.CancellableUntil, dash(c.PointOfNoReturn), dash(c.DecidedBy), dash(c.Undo), dash(c.Remainder), revert, c.Bound)
	}
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func states() string {
	var b strings.Builder
	b.WriteString("# The states of a task\n\nGenerated from the table by which the engine moves tasks (`make generate`). Any other move is refused at run time.\n\n```mermaid\n")
	b.WriteString(tasks.Diagram())
	b.WriteString("```\n\n| from | to | when |\n|---|---|---|\n")
	for _, t := range tasks.Transitions {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", t.From, t.To, t.When)
	}
	return b.String()
}
