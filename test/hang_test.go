package test

import (
	"encoding/json"
	"os"
	"strings"

	"vdsm-agent/rpc/wire"
	"vdsm-agent/storageops/domain/hangfs"

	"github.com/rogpeppe/go-internal/testscript"
)

type hangKey struct{}

// hangmount FROM AT: shows a directory at another place, through a file system that can hang.
func hangMount(ts *testscript.TestScript, _ bool, args []string) {
	from, at := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(from, 0o755))
	ts.Check(os.MkdirAll(at, 0o755))
	fs, err := hangfs.Mount(from, at)
	ts.Check(err)
	*ts.Value(hangKey{}).(**hangfs.FS) = fs
	ts.Defer(func() {
		fs.Release()
		of(ts).kill() // it has files open there
		if err := fs.Unmount(); err != nil {
			ts.Logf("%s cannot be unmounted: %v", at, err)
		}
	})
}

func hanging(ts *testscript.TestScript) *hangfs.FS { return *ts.Value(hangKey{}).(**hangfs.FS) }

// hang: from now on every call on it hangs.
func hang(ts *testscript.TestScript, _ bool, _ []string) { hanging(ts).Hang() }

// hung: returns when a call hangs.
func hung(ts *testscript.TestScript, _ bool, _ []string) { <-hanging(ts).Hung() }

// unhang: all calls go on.
func unhang(ts *testscript.TestScript, _ bool, _ []string) { hanging(ts).Release() }

// stuck TASK: returns when the task is stuck; fails if it ends.
func stuck(ts *testscript.TestScript, _ bool, args []string) {
	whileItLives(ts, args[0], func(d wire.Details) bool { return d.Stuck })
}

// says TASK TEXT: returns when TEXT is in the task's message; fails if it ends.
func says(ts *testscript.TestScript, _ bool, args []string) {
	whileItLives(ts, args[0], func(d wire.Details) bool { return strings.Contains(d.Message, args[1]) })
}

// whileItLives looks at a task until it is as asked; the script fails if it ends before.
func whileItLives(ts *testscript.TestScript, task string, until func(wire.Details) bool) {
	for {
		out, err := command(ts, "task", task, "--json")
		ts.Check(err)
		var d wire.Details
		ts.Check(json.Unmarshal([]byte(out), &d))
		switch {
		case !d.Ended.IsZero():
			ts.Fatalf("the task has ended: %s", d.Message)
		case until(d):
			return
		}
	}
}
