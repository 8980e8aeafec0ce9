package domaincheck

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the document")

// TestGeneratedDocuments: docs/domain-check.md ends with the table Kinds.
func TestGeneratedDocuments(t *testing.T) {
	const name, mark = "../../docs/domain-check.md", "by `make generate`. -->\n"
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(old), mark)
	if !ok {
		t.Fatalf("%s has no place for the table", name)
	}
	var b strings.Builder
	b.WriteString(head + mark + "\n| class | severity | what it means | what can be done | repair |\n|---|---|---|---|---|\n")
	for _, k := range Kinds {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.Class, k.Severity, k.Means, k.Remedy, k.Repair)
	}
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if b.String() != string(old) {
		t.Errorf("%s is not what the code says; run `make generate`", name)
	}
}

// TestKinds: each class is once in the table, and is said in whole sentences.
func TestKinds(t *testing.T) {
	if len(byClass) != len(Kinds) {
		t.Error("a class is in the table twice")
	}
	for _, k := range Kinds {
		for _, s := range []string{k.Means, k.Remedy} {
			if !strings.HasSuffix(s, ".") || strings.ContainsAny(s, "|\n") {
				t.Errorf("%s: %q is no sentence for a table", k.Class, s)
			}
		}
	}
}
