package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"

	"github.com/rs/zerolog"
)

// On a terminal: colours, tables cut at its width, bars.
func TestTerminal(t *testing.T) {
	bubble(t, func(h *host) {
		h.terminal, h.width = true, 80
		h.submit("1a2b3c4d", "Volume.copy", "", volume("a1"))
		h.submit("fa11fa11", "Volume.copy", "", volume("a2", "failAt", 2, "undoable", false))
		h.submit("0b0b0b0b", "Volume.copy", "", volume("a1", "gib", 2))
		h.pass(1500 * time.Millisecond)
		h.say("tasks")
		h.say("tasks", "--no-color")
		h.env["NO_COLOR"] = "1"
		h.say("tasks")
		h.env = map[string]string{}
		h.sayUntil(h.interruptAfter(2200*time.Millisecond), "watch")
		h.say("watch", "0b0b")
		h.say("watch", "fa11")
		h.say("task", "fa11")
		h.submit("c1ea4ed0", "Volume.copy", "", volume("a7", "gib", 2))
		h.after(2050*time.Millisecond, func() { h.clear("c1ea4ed0") })
		h.skew()
		h.say("watch")
		h.say("watch", "--json")
		h.height = 4
		for _, id := range []string{"11111111", "22222222", "33333333", "44444444"} {
			h.submit(id, "Volume.copy", "", volume("b"+id[:1], "gib", 2))
		}
		h.sayUntil(h.interruptAfter(1700*time.Millisecond), "watch")
		h.sayUntil(h.interruptAfter(time.Minute), "watch", "--follow")
		h.say("watch", "aaaa", "--follow")
		h.height = 0
		h.width = 20
		h.submit("aaaaaaaa", "Volume.copy", "", volume("a8", "gib", 2))
		h.skew()
		h.say("watch", "aaaa")
	})
}

var cursorUp = regexp.MustCompile(`\x1b\[(\d+)A\x1b\[J`)

// screenOf plays what was written to a terminal and returns what stands there in the end. It knows one movement: up some
// lines, and clear from there.
func screenOf(written string) string {
	var lines []string
	for len(written) > 0 {
		at := cursorUp.FindStringSubmatchIndex(written)
		if at == nil {
			at = []int{len(written), len(written), 0, 0}
		}
		lines = append(lines, strings.SplitAfter(written[:at[0]], "\n")...)
		if n := len(lines); n > 0 && lines[n-1] == "" {
			lines = lines[:n-1]
		}
		if up, err := strconv.Atoi(written[at[2]:at[3]]); err == nil {
			lines = lines[:max(len(lines)-up, 0)]
		}
		written = written[at[1]:]
	}
	return strings.Join(lines, "")
}

// canned answers calls with what a test gives it, as JSON; it stands for daemons in states that are hard to reach.
type canned map[string]func(params json.RawMessage) (any, error)

func (c canned) Call(_ context.Context, method string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer, known := c[method]
	if !known {
		return &client.Error{Code: -32601, Message: "there is no verb " + method}
	}
	value, err := answer(raw)
	if err != nil {
		return err
	}
	if raw, err = json.Marshal(value); err != nil || result == nil {
		return err
	}
	return json.Unmarshal(raw, result)
}

func (canned) Close() error { return nil }

func (canned) Subscribe(context.Context, ...string) error { return errors.New("there are no events") }

func (canned) Next(context.Context) (client.Event, error) {
	return client.Event{}, errors.New("there are no events")
}

// against runs one command line against canned answers.
func against(t *testing.T, daemon connection, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	exit = run(t.Context(), process{
		args: args, env: func(string) string { return "" }, stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
		dial: func(context.Context, target) (connection, error) { return daemon, nil },
	})
	return exit, out.String(), errs.String()
}

// A task about which there is everything to say, some of it from a hostile image.
func TestDetails(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 3, 1, 12, 0, s, 0, time.UTC) }
	id := uuid("1a2b")
	d := wire.Details{
		Task: wire.Task{
			ID: id, Verb: "migrate", Method: "VM.migrate", State: string(tasks.Aborting), Stuck: true, Code: 411, Tag: "virt", Flow: "f-1",
			Message: "stopped by alice\x1b]0;owned\a; waiting until its work has ended\nreally", Created: at(0),
			Progress: &wire.Progress{Done: 3 << 30, Total: 4 << 30, Percent: 75, Rate: 1 << 20, Left: 1024},
		},
		Params: json.RawMessage(`{"vmID":"x"}`), Who: "alice (pid 7)", Started: at(1), Updated: at(2), LastCheckpoint: at(2), CancelWithin: 0.5,
		NotCancelable: "it is being undone already", PointOfNoReturn: "switch-over", DecidedBy: "libvirt", StopLost: true,
		Stop: &wire.Asked{At: at(3), Who: "alice (pid 7)"}, Revert: &wire.Asked{At: at(4), Who: "bob"},
		Pause: &wire.Asked{At: at(6), Who: "carol"}, RevertAtEnd: &wire.Asked{At: at(7), Who: "dave"}, BytesPerSecond: 50 << 20,
		WaitsFor: []string{"image/x (exclusive), which task " + uuid("5555") + " has", "vm/y (shared), which task " + uuid("6666") + " has"},
		Locks:    []wire.Lock{{Key: "vm/x", Exclusive: true}}, WaitsBehind: []string{uuid("5555"), uuid("6666")}, Pids: []int{12, 13},
		StuckSince: at(5), StuckHolders: []string{"pid 12 (qemu-img), state D, in nfs_wait", "pid 13 (qemu-img)"},
		Residue: []string{"images/a", "images/b"}, Remainder: []string{"base part merged"}, Deferred: uuid("7777"),
		Steps: []wire.Step{{Name: "pre-copy", State: "undo-failed", Started: at(1), Ended: at(5), CheckpointAt: at(2), Error: "no answer"}},
	}
	daemon := canned{"Task.getDetails": func(json.RawMessage) (any, error) { return d, nil }}
	exit, stdout, stderr := against(t, daemon, "task", id)
	golden(t, fmt.Sprintf("%sstderr: %s\nexit %d\n", stdout, stderr, exit))
	if strings.ContainsAny(stdout, "\x1b\a") {
		t.Error("control characters of a message reach the terminal")
	}
}

// Very many tasks come in pages, and a name is looked for in all of them.
func TestPages(t *testing.T) {
	const total = 2*pageSize + 10
	calls := 0
	daemon := canned{"Host.getAllTasks": func(raw json.RawMessage) (any, error) {
		calls++
		var f filter
		if err := json.Unmarshal(raw, &f); err != nil {
			return nil, err
		}
		first := 0
		if f.After != "" {
			if _, err := fmt.Sscan(f.After, &first); err != nil {
				return nil, err
			}
		}
		page := wire.TaskPage{Tasks: []wire.Task{}}
		for n := first; n < min(first+f.Limit, total); n++ {
			page.Tasks = append(page.Tasks, wire.Task{ID: uuid(fmt.Sprintf("%08x", n)), State: "running", Method: "Volume.copy"})
		}
		if next := first + f.Limit; next < total {
			page.Next = strconv.Itoa(next)
		}
		return page, nil
	}}
	exit, stdout, stderr := against(t, daemon, "tasks")
	if n := strings.Count(stdout, "\n"); exit != exitDone || n != total+1 || calls != 3 {
		t.Fatalf("exit %d, %d lines in %d calls, want %d in 3; %s", exit, n, calls, total+1, stderr)
	}
	daemon["Task.stop"] = func(raw json.RawMessage) (any, error) {
		if want := `{"taskID":"` + uuid(fmt.Sprintf("%08x", total-1)) + `"}`; string(raw) != want {
			t.Errorf("stopped %s, want %s", raw, want)
		}
		return true, nil
	}
	if exit, _, stderr := against(t, daemon, "stop", fmt.Sprintf("%08x", total-1)); exit != exitDone {
		t.Fatalf("exit %d: %s", exit, stderr)
	}
	if exit, _, stderr := against(t, daemon, "stop", "0000000"); exit != exitMisuse || !strings.Contains(stderr, "and 11 more") {
		t.Fatalf("exit %d: %s", exit, stderr)
	}
}

// A daemon that does not answer, or goes away, or refuses the connection.
func TestNoAnswer(t *testing.T) {
	cases := []struct {
		name   string
		fails  error
		exit   int
		stderr string
	}{
		{"lost", client.ErrConnectionLost, exitNoConnection, "the daemon went away before it answered; 'vdsm-agentctl tasks --all' shows what it has recorded"},
		{"time", context.DeadlineExceeded, exitTimeout, "no answer within 1 min; see 'journalctl -u vdsm-agentd'"},
		{"shutdown", &client.Error{Code: 3001, Message: "the agent is shutting down"}, exitNoConnection, "the agent is shutting down [3001]"},
		{"odd", errors.New("Host.getAllTasks cannot be called"), exitRefused, "Host.getAllTasks cannot be called"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			daemon := canned{"Host.getAllTasks": func(json.RawMessage) (any, error) { return nil, c.fails }}
			exit, stdout, stderr := against(t, daemon, "tasks")
			if want := program + ": " + c.stderr + "\n"; exit != c.exit || stderr != want || stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q", exit, stdout, stderr, c.exit, want)
			}
			var told report
			exit, stdout, stderr = against(t, daemon, "tasks", "--json")
			if err := json.Unmarshal([]byte(stderr), &told); err != nil || exit != c.exit || told.Exit != exit || told.String() != c.stderr || stdout != "" {
				t.Errorf("as JSON: exit %d, stdout %q, stderr %q, %v", exit, stdout, stderr, err)
			}
		})
	}
	for _, c := range []struct {
		dial error
		text string
	}{
		{fs.ErrPermission, "you may not use /s; run this as root or as a member of its group"},
		{client.ErrNoConnection, "no daemon answers on /s; start it with 'systemctl start vdsm-agentd' or name its socket with --socket"},
		{syscall.ENOTSOCK, syscall.ENOTSOCK.Error()},
	} {
		if r := explain(&unreachable{target{socket: "/s"}, c.dial}); r.Exit != exitNoConnection || r.Message != c.text {
			t.Errorf("%v: %+v, want %q", c.dial, r, c.text)
		}
	}
}

// A daemon that never answers is given up.
func TestSilentDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		exit, _, stderr := against(t, silent{}, "tasks")
		if exit != exitTimeout || time.Since(begun) != callLimit+10*time.Second {
			t.Errorf("exit %d after %s: %s", exit, time.Since(begun), stderr)
		}
	})
}

type silent struct{ canned }

func (silent) Call(ctx context.Context, _ string, _, _ any) error {
	<-ctx.Done()
	return ctx.Err()
}

// Nobody reads any more: that is no error. Any other is.
func TestOutputFails(t *testing.T) {
	for _, c := range []struct {
		fails error
		exit  int
		text  string
	}{
		{syscall.EPIPE, exitDone, ""},
		{&fs.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EBADF}, exitDone, ""},
		{io.ErrClosedPipe, exitDone, ""},
		{syscall.ENOSPC, exitRefused, program + ": the output could not be written: no space left on device\n"},
	} {
		var stderr strings.Builder
		exit := run(t.Context(), process{
			args: []string{"version"}, env: func(string) string { return "" }, stdout: failing{c.fails}, stderr: &stderr,
		})
		if exit != c.exit || stderr.String() != c.text {
			t.Errorf("%v: exit %d, %q", c.fails, exit, stderr.String())
		}
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// The real client over a real socket.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	command := func(args ...string) (exit int, stdout, stderr string) {
		var out, errs strings.Builder
		exit = run(t.Context(), process{
			args: args, env: func(name string) string { return map[string]string{"VDSM_AGENT_SOCKET": path}[name] }, stdout: &out, stderr: &errs, dial: dial,
		})
		return exit, out.String(), errs.String()
	}
	if exit, _, stderr := command("Host", "ping"); exit != exitNoConnection || !strings.Contains(stderr, path) {
		t.Fatalf("without a daemon: exit %d: %s", exit, stderr)
	}
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.New(rpc.Options{Log: zerolog.Nop()})
	server.Handle([]rpc.Method{
		{Name: "Host.ping", Role: access.Observe, Doc: "Test.", Handle: func(context.Context, *rpc.Request) (any, error) { return nil, nil }},
		{Name: "Host.die", Role: access.Observe, Doc: "Test.", Handle: func(context.Context, *rpc.Request) (any, error) { panic("as a test wants it") }},
	})
	server.SetReady()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, l, rpc.Local{Policy: access.NewPolicy()}) }()
	if exit, stdout, stderr := command("Host", "ping"); exit != exitDone || stdout != "true\n" {
		t.Errorf("exit %d: %s%s", exit, stdout, stderr)
	}
	if exit, _, stderr := command("Host", "die"); exit != exitRefused || !strings.Contains(stderr, "defect") {
		t.Errorf("exit %d: %s", exit, stderr)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if exit, _, _ := command("Host", "ping"); exit != exitNoConnection {
		t.Errorf("after the daemon: exit %d", exit)
	}
	path = filepath.Join(t.TempDir(), "dead.sock")
	dead, err := net.Listen("unix", path) // leaves its file
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if exit, _, stderr := command("Host", "ping"); exit != exitNoConnection || !strings.Contains(stderr, "no daemon answers") {
		t.Errorf("on the socket of a dead daemon: exit %d: %s", exit, stderr)
	}
}

// The store, without a daemon.
func TestStoreCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, storeFile)
	s, err := store.Open(path, store.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	record := func(id, state string, cleared bool) store.Record {
		return store.Record{ID: uuid(id), Version: 1, Verb: "Volume.copy", Tag: "spm", State: state, Cleared: cleared, Created: at, Updated: at, Body: []byte("{}")}
	}
	change := store.Change{Put: []store.Record{
		record("1", "running", false), record("2", "running", false), record("3", "finished", false), record("4", "cleared", true), record("5", "queued", false),
	}}
	if err := s.Commit(change); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAside(uuid("5"), "there is no verb \"Volume.fly\""); err != nil {
		t.Fatal(err)
	}
	var transcript strings.Builder
	check := func(args ...string) {
		exit, stdout, stderr := against(t, nil, append([]string{"store", "check"}, args...)...)
		text := fmt.Sprintf("$ vdsm-agentctl store check %s\n%sstderr: %s\nexit %d\n\n", strings.Join(args, " "), stdout, strings.TrimSpace(stderr), exit)
		text = strings.ReplaceAll(text, dir, "DIR")
		transcript.WriteString(regexp.MustCompile(`(Volume.fly|000  |"at": ")("?)20[-0-9T:. Z]+`).ReplaceAllString(text, "${1}${2}TIME "))
	}
	check("--state-dir", dir)
	check(path)
	check(path, "--json")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(path)
	broken := filepath.Join(dir, "broken.db")
	if err := os.WriteFile(broken, []byte("this is no store at all, but a text of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(broken)
	check(filepath.Join(dir, "none.db"))
	golden(t, transcript.String())
}
