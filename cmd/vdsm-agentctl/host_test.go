package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"

	"github.com/rs/zerolog"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	time.Local = time.UTC
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// host is a daemon in the test's bubble: the real server over the real engine, with a store in memory and verbs that take
// their time. Clients reach it over a pipe. A session at its command line is written down and compared with a golden
// file.
type host struct {
	t        *testing.T
	store    *tasktest.MemStore
	mu       sync.Mutex // guards what follows, up to serves: the daemon may go and come while a command runs
	engine   *tasks.Engine
	server   *rpc.Server
	down     bool // nobody answers
	conns    []net.Conn
	serving  context.Context
	shutdown context.CancelFunc
	serves   sync.WaitGroup

	terminal bool
	width    int
	height   int
	env      map[string]string
	stdin    string
	script   strings.Builder
}

// bubble runs a test against a host of its own, in virtual time that begins at 2000-01-01 00:00 UTC, and compares the
// session with testdata/<test>.golden.
func bubble(t *testing.T, test func(*host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t, store: tasktest.NewMemStore(), width: 100, env: map[string]string{}}
		h.start()
		test(h)
		h.stopAll()
		h.compare()
	})
}

// start starts the daemon on what the store has.
func (h *host) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.engine = tasks.New(tasks.Options{Store: h.store, Verbs: testVerbs(), Log: zerolog.Nop()})
	h.server = rpc.New(rpc.Options{Log: zerolog.Nop()})
	h.server.Handle(rpc.Methods(h.engine, testCalls()))
	if err := h.engine.Start(nil); err != nil {
		h.t.Fatalf("%v after:\n%s", err, &h.script)
	}
	h.server.Feed(h.engine)
	h.serving, h.shutdown = context.WithCancel(context.Background())
	h.server.SetReady()
	h.down = false
}

// stopAll ends the daemon as a restart does: recorded state stays.
func (h *host) stopAll() {
	h.mu.Lock()
	h.down = true
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
	h.mu.Unlock()
	h.shutdown()
	if err := h.engine.Close(context.Background()); err != nil {
		h.t.Fatalf("%v after:\n%s", err, &h.script)
	}
	h.serves.Wait()
}

func (h *host) dial(_ context.Context, to target) (connection, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down || to.socket != defaultSocket {
		return nil, fmt.Errorf("%w on %s", client.ErrNoConnection, to.socket)
	}
	near, far := net.Pipe()
	h.conns = append(h.conns, far)
	server, serving := h.server, h.serving
	h.serves.Go(func() {
		server.ServeMessages(serving, stream.NewLines(far, stream.MaxMessage), rpc.Peer{Name: "alice (pid 7)", Role: access.Admin})
	})
	return client.New(socketLike{near}), nil
}

// socketLike is a pipe that answers, when it is closed at the other end, as a socket does.
type socketLike struct{ net.Conn }

func (s socketLike) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = syscall.EPIPE
	}
	return n, err
}

func (s socketLike) SetWriteDeadline(t time.Time) error {
	if err := s.Conn.SetWriteDeadline(t); !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return nil // the write that follows says so
}

// submit makes a task with an id that a reader of the golden file can recognise.
func (h *host) submit(id, verb, flow string, params any) string {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatalf("%v after:\n%s", err, &h.script)
	}
	full := uuid(id)
	_, err = h.engine.Submit(context.Background(), tasks.Submission{ID: full, Verb: verb, Params: raw, Flow: flow, Who: "bob (pid 8)"})
	if err != nil {
		h.t.Fatalf("%v after:\n%s", err, &h.script)
	}
	synctest.Wait()
	return full
}

// uuid makes a whole id of the beginning of one.
func uuid(beginning string) string {
	const rest = "00000000-0000-4000-8000-000000000000"
	return beginning + rest[len(beginning):]
}

// say runs one command line and writes down what it prints.
func (h *host) say(args ...string) int {
	h.t.Helper()
	return h.sayUntil(context.Background(), args...)
}

// sayUntil is say for a command that ends with ctx, as with Ctrl-C.
func (h *host) sayUntil(ctx context.Context, args ...string) int {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	exit := run(ctx, process{
		args: args, env: func(name string) string { return h.env[name] }, stdin: strings.NewReader(h.stdin), stdout: &stdout, stderr: &stderr,
		terminal: h.terminal, notes: h.terminal, width: h.width, height: h.height, dial: h.dial,
	})
	if lines := bytes.Count(stderr.Bytes(), []byte("\n")); !h.terminal && lines > 1 {
		h.t.Errorf("%v: %d lines on standard error, want one at most:\n%s", args, lines, &stderr)
	}
	fmt.Fprintf(&h.script, "$ vdsm-agentctl %s\n", quoted(args))
	for line := range strings.Lines(screenOf(stdout.String())) {
		fmt.Fprintf(&h.script, "%s\n", visible(line))
	}
	for line := range strings.Lines(stderr.String()) {
		fmt.Fprintf(&h.script, "stderr: %s\n", visible(line))
	}
	fmt.Fprintf(&h.script, "exit %d\n\n", exit)
	synctest.Wait() // what the command asked for is carried out as far as it goes at this moment
	return exit
}

// after lets something happen while a command runs.
func (h *host) after(d time.Duration, what func()) { time.AfterFunc(d, what) }

// interruptAfter is what a command runs in that the user ends with Ctrl-C.
func (h *host) interruptAfter(d time.Duration) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	h.after(d, cancel)
	return ctx
}

// clear is somebody else's Task.clear.
func (h *host) clear(id string) {
	if err := h.engine.Clear(uuid(id), "engine"); err != nil {
		h.t.Error(err)
	}
}

// comment writes a line into the session.
func (h *host) comment(text string) { fmt.Fprintf(&h.script, "# %s\n", text) }

func (h *host) pass(d time.Duration) {
	time.Sleep(d) // the bubble's time
	synctest.Wait()
	h.comment(d.String() + " later")
}

// skew lets a moment pass, so that what a command does at whole parts of a second never falls on what a task does then.
func (h *host) skew() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

// notified is the time of an event, which is different each time.
var notified = regexp.MustCompile(`"notify_time":\d+`)

func (h *host) compare() {
	h.t.Helper()
	golden(h.t, notified.ReplaceAllString(h.script.String(), `"notify_time":0`))
}

// golden compares with testdata/<test>.golden, or writes it.
func golden(t *testing.T, got string) {
	t.Helper()
	path := filepath.Join("testdata", t.Name()+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the session differs from %s (-update writes it anew); it is now:\n%s", path, got)
	}
}

func quoted(args []string) string {
	var out []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " '\"*{[") {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// visible shows control characters of a line, but for its end.
func visible(line string) string {
	line = strings.TrimRight(line, "\n")
	return strings.NewReplacer("\x1b", "<ESC>", "\r", "<CR>", "\a", "<BEL>").Replace(line)
}

// The verbs that the tests submit. Nothing is copied; time passes.

type copyParams struct {
	VolumeID    param.UUID   `json:"volumeID" doc:"the volume"`
	PoolID      param.UUID   `json:"storagepoolID" doc:"the pool"`
	GiB         int64        `json:"gib" default:"8" doc:"how much there is to copy"`
	VolFormat   param.Format `json:"volFormat" default:"RAW" doc:"format of the destination"`
	PostZero    param.Bool   `json:"postZero" default:"false"`
	DstImgs     []string     `json:"dstImgs" default:"[]" doc:"more destinations"`
	FailAt      int64        `json:"failAt" default:"0" doc:"fails after so many GiB; 0 = never"`
	Undoable    param.Bool   `json:"undoable" default:"true" doc:"false: the undo fails"`
	Commits     param.Bool   `json:"commits" default:"false" doc:"the copy is past the point of no return"`
	KeepFor     int64        `json:"keepFor" default:"0" doc:"it can be reverted for so long; 0 = until it is cleared"`
	Description string       `json:"desc" default:""`
}

func testVerbs() []*tasks.Verb {
	undo := "destination volume removed, source untouched"
	return []*tasks.Verb{
		{
			Name: "Volume.copy", Role: access.Operate, Doc: "Test.", Word: "copyImage", Params: copyParams{}, Forward: true, Class: tasks.ClassCopy, Plan: planCopy,
			Contract: tasks.Contract{CancellableUntil: "finished", PointOfNoReturn: "publish", Undo: undo, Revert: "destination to the trash", Bound: 10 * time.Second},
		},
		{
			Name: "VM.migrate", Role: access.Operate, Doc: "Test.", Word: "migrate", Params: copyParams{}, Forward: true, Class: tasks.ClassCopy, Plan: planCopy,
			Contract: tasks.Contract{
				CancellableUntil: "switch-over", PointOfNoReturn: "switch-over", DecidedBy: "libvirt", Bound: 90 * time.Second,
				Undo:      "VM runs on the source, destination domain gone; the cancel is asserted again until libvirt shows no job",
				Remainder: "none but the memory that was sent",
			},
		},
	}
}

func planCopy(_ string, raw json.RawMessage) (*tasks.Plan, error) {
	var p copyParams
	if err := param.Decode(raw, &p, param.Lenient); err != nil {
		return nil, err
	}
	tag := tasks.TagSPM
	if p.PoolID.IsBlank() {
		tag = tasks.TagLocal
	}
	create := tasks.Step{
		Name: "create-volume", Undone: "destination volume removed",
		Do: func(context.Context, *tasks.Scope) error { return nil },
		Undo: func(context.Context, *tasks.Scope) error {
			if !p.Undoable {
				return errors.New("images/dst/" + string(p.VolumeID) + " cannot be removed: read-only file system")
			}
			return nil
		},
	}
	data := tasks.Step{Name: "copy-data", Slices: true, PointOfNoReturn: bool(p.Commits), Do: func(ctx context.Context, s *tasks.Scope) error {
		var done int64
		if _, err := s.LastCheckpoint(&done); err != nil {
			return err
		}
		for n := done; n < p.GiB; n++ {
			s.Progress(n<<30, p.GiB<<30)
			took := time.Second
			if limit := s.Limit(); limit > 0 {
				took = max(took, time.Second*time.Duration((1<<30)/limit))
			}
			select {
			case <-time.After(took):
			case <-ctx.Done():
				return ctx.Err()
			}
			if n+1 == p.FailAt {
				return errors.New("no space left on the destination's domain")
			}
			if err := s.Checkpoint(n + 1); err != nil {
				return err
			}
		}
		s.Progress(p.GiB<<30, p.GiB<<30)
		return nil
	}}
	publish := tasks.Step{Name: "publish", Do: func(context.Context, *tasks.Scope) error { return nil }}
	plan := &tasks.Plan{
		Tag: tag, Steps: []tasks.Step{create, data, publish},
		Locks:       []tasks.Lock{{Key: "domain/d0", Exclusive: false}, {Key: "image/d0/" + string(p.VolumeID), Exclusive: true}},
		Fingerprint: func(context.Context, *tasks.Scope) (any, error) { return "as it was", nil },
	}
	if p.KeepFor > 0 {
		plan.Expires = func(*tasks.Scope) time.Time { return time.Now().Add(time.Duration(p.KeepFor)) }
	}
	return plan, nil
}

// The verbs that answer at once.

type domainParams struct {
	Domain param.UUID `json:"storagedomainID" default:"" doc:"the storage domain"`
}

type emptyParams struct {
	Task   param.UUID `json:"taskID" default:""`
	Domain param.UUID `json:"storagedomainID" default:""`
}

var goodDomain, badDomain = uuid("d00d"), uuid("dead")

func testCalls() []tasks.Call {
	call := func(name string, params any, answer func(raw json.RawMessage) (any, error)) tasks.Call {
		return tasks.Call{Name: name, Role: access.Observe, Doc: "Test.", Params: params, Ours: true, Answer: func(_ context.Context, raw json.RawMessage) (any, error) { return answer(raw) }}
	}
	return []tasks.Call{
		call("Host.getStorageDomains", param.None{}, func(json.RawMessage) (any, error) { return []string{goodDomain, badDomain}, nil }),
		call("Host.getConfiguration", param.None{}, func(json.RawMessage) (any, error) { return testConfiguration, nil }),
		call("StorageDomain.getInfo", domainParams{}, domainInfoAnswer),
		call("StorageDomain.getStats", domainParams{}, func(json.RawMessage) (any, error) {
			return map[string]any{"disktotal": "1099511627776", "diskfree": "274877906944", "mdavalid": true}, nil
		}),
		call("Trash.list", domainParams{}, func(json.RawMessage) (any, error) {
			return []map[string]any{
				{"taskID": uuid("7ea5"), "storagedomainID": goodDomain, "bytes": 5 << 30, "deadline": time.Now().Add(23 * time.Hour),
					"items": []string{"image " + uuid("1a"), "volume " + uuid("1b")}},
				{"taskID": uuid("7eb0"), "storagedomainID": goodDomain, "bytes": 0, "items": []string{}},
			}, nil
		}),
		call("Trash.empty", emptyParams{}, func(raw json.RawMessage) (any, error) {
			var p emptyParams
			if err := param.Decode(raw, &p, param.Strict); err != nil {
				return nil, err
			}
			if p.Task != "" {
				return uuid("9e0" + string(p.Task[3:4])), nil
			}
			return []string{uuid("9e01"), uuid("9e02")}, nil
		}),
	}
}

var testConfiguration = wire.Configuration{
	Settings: []wire.Setting{
		{Section: "agent", Key: "log_level", Value: "info", Origin: "default"},
		{Section: "access", Key: "admin", Origin: "default"},
		{Section: "storage", Key: "trash_for", Value: "24h", Origin: "default", Restart: true, Pending: &wire.PendingSetting{Value: "1h", Origin: "/etc/vdsm-agent/conf.d/50.conf:4"}},
		{Section: "tasks", Key: "copy_limit", Value: "7", Origin: "/etc/vdsm-agent/vdsm-agent.conf:12"},
	},
	Refused: []string{"/etc/vdsm-agent/conf.d/50.conf:4: there is no section [paint]"},
}

func domainInfoAnswer(raw json.RawMessage) (any, error) {
	var p domainParams
	if err := param.Decode(raw, &p, param.Strict); err != nil {
		return nil, err
	}
	if string(p.Domain) != goodDomain {
		return nil, errors.New("the domain's mount answers input/output errors; check the disk below it")
	}
	return map[string]any{"uuid": goodDomain, "name": "fast", "type": "LOCALFS", "class": "Data", "role": "Regular", "pool": []string{}, "version": "5",
		"block_size": 512, "alignment": 1 << 20, "remotePath": "/srv/fast"}, nil
}
