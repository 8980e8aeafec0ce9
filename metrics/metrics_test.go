package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/metrics"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
)

var update = flag.Bool("update", false, "write the golden file and the generated part of the guide")

// figures are those of a run of a real engine in which everything happens that is counted, and of what the other observers are told.
func figures(t *testing.T) (text string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		run(t, m)
		var err error
		if text, err = m.Text(); err != nil {
			t.Fatal(err)
		}
	})
	return text
}

// host is an engine in a bubble.
type host struct {
	*tasks.Engine
	t     *testing.T
	world *mock.World
}

func run(t *testing.T, m *metrics.Metrics) {
	t.Helper()
	h := &host{t: t, world: mock.NewWorld()}
	verbs := mock.Verbs(h.world)
	h.Engine = tasks.New(tasks.Options{
		Store: tasktest.NewMemStore(), Verbs: verbs, Log: zerolog.Nop(), Observer: m.Tasks(verbs), QueueLimit: 9,
		Limits: map[tasks.Class]int{tasks.ClassCopy: 1},
	})
	if err := h.Start(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m.Look(metrics.Sources{
		Census: h.Census, Queue: h.Queue,
		Domains: func(context.Context) map[string]metrics.Domain {
			return map[string]metrics.Domain{
				"good": {Healthy: true, Size: 100, Free: 50, Trash: 30, TrashLimit: 20, Entries: 4, Overdue: 1},
				"away": {Size: 1}, // what it had is not shown
				"free": {Healthy: true, Size: 100, Free: 50},
			}
		},
		Room: func() (size, free uint64, err error) { return 1000, 10, nil },
	})
	h.tasks()
	calls(m)
	changes(m)
}

func (h *host) submit(locks []string, k ...mock.Knobs) string {
	h.t.Helper()
	raw, err := json.Marshal(mock.Params{Steps: k, Locks: locks, Tag: tasks.TagLocal})
	if err != nil {
		h.t.Fatal(err)
	}
	id, err := h.Submit(h.t.Context(), tasks.Submission{Verb: "Mock.run", Params: raw, Who: "tester"})
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h *host) ended(id string) {
	h.t.Helper()
	if _, err := h.Wait(h.t.Context(), id, tasks.Ended); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// tasks lets tasks have every fate.
func (h *host) tasks() {
	done := h.submit(nil, mock.Knobs{Name: "a", Slices: 4, Pace: time.Second})
	h.ended(done)
	h.must(h.Revert(h.t.Context(), done, "tester"))
	h.ended(done)

	stopped := h.submit(nil, mock.Knobs{Name: "a", Slices: 10, Pace: time.Minute})
	synctest.Wait()
	h.must(h.Stop(stopped, tasks.StopOptions{Who: "tester"}))
	h.ended(stopped)

	failed := h.submit(nil, mock.Knobs{Name: "a", Slices: 1, UndoFails: 1}, mock.Knobs{Name: "b", Slices: 1, FailAt: 1})
	h.ended(failed)
	h.must(h.Revert(h.t.Context(), failed, "tester"))
	h.ended(failed)

	h.ended(h.submit(nil, mock.Knobs{Name: "a", Slices: 1, FailAt: 1, FailTimes: 2, PointOfNoReturn: true}))

	first := h.submit([]string{"disk"}, mock.Knobs{Name: "a", Pace: 5 * time.Second, Slices: 1})
	second := h.submit([]string{"disk"}, mock.Knobs{Name: "a", Slices: 1})
	h.ended(first)
	h.ended(second)

	// One does not end within its bound; then another hangs for good.
	late := h.submit(nil, mock.Knobs{Name: "a", Slices: 1, Pace: 40 * time.Second, IgnoresStop: true})
	synctest.Wait()
	h.must(h.Stop(late, tasks.StopOptions{Who: "tester"}))
	h.ended(late)
	stuck := h.submit(nil, mock.Knobs{Name: "a", Worker: mock.Immortal})
	synctest.Wait()
	h.must(h.Stop(stuck, tasks.StopOptions{Who: "tester"}))
	time.Sleep(30 * time.Second)
	h.t.Cleanup(h.world.Release)

	h.submit(nil, mock.Knobs{Name: "waits", Slices: 1})
	h.must(h.Drain(h.t.Context(), "tester"))
	synctest.Wait()
}

// calls are those of clients.
func calls(m *metrics.Metrics) {
	s := m.Server()
	get := s.Method("Task.getStatus")
	get(0, time.Millisecond)
	get(0, 2*time.Millisecond)
	get(code.UnknownTask, time.Second)
	s.Method("Task.never")
	gone := s.Connected("local")
	s.Connected("local")
	s.Connected("tls")
	gone()
	s.TurnedAway("tls")
}

// changes are those of the store.
func changes(m *metrics.Metrics) {
	s := m.Store()
	var _ store.Observer = s
	s.Synced(3*time.Millisecond, 5)
	s.Synced(2*time.Second, 1)
	s.Failed()
	s.Trusted(false)
}

// ours leaves out what Go and the operating system say of the process.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "vdsm_agent_") {
			b.WriteString(line)
		}
	}
	return regexp.MustCompile(`revision="[^"]*",version="[^"]*"`).ReplaceAllString(b.String(), `revision="…",version="…"`)
}

// TestFigures: every figure, after a run in which each has something to count.
func TestFigures(t *testing.T) {
	const golden = "testdata/figures.golden"
	got := ours(figures(t))
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the figures are\n%s\nand not those of %s; look at them, and run this test with -update", got, golden)
	}
	for _, family := range families(got) {
		if family.name == "vdsm_agent_store_healthy" { // 0 is what it has to say
			continue
		}
		if !regexp.MustCompile(`(?m)^` + family.name + `(_count|_total)?(\{[^}]*\})? [^0]`).MatchString(got) {
			t.Errorf("%s has counted nothing: the run lacks something", family.name)
		}
	}
}

// family is a metric with its help.
type family struct{ name, kind, help string }

func families(text string) (all []family) {
	kinds := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`).FindAllStringSubmatch(text, -1) {
		kinds[m[1]] = m[2]
	}
	for _, m := range regexp.MustCompile(`(?m)^# HELP (\S+) (.+)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, family{m[1], kinds[m[1]], m[2]})
	}
	return all
}

// TestGuide: docs/monitoring.md has every metric, in its own words. With -update it is written.
func TestGuide(t *testing.T) {
	const page, begin, end = "../docs/monitoring.md", "<!-- metrics -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("there is no place for the metrics in %s", page)
	}
	table := "| metric | kind | is |\n|---|---|---|\n"
	for _, f := range families(ours(figures(t))) {
		table += "| `" + f.name + "` | " + f.kind + " | " + strings.ReplaceAll(f.help, "|", `\|`) + " |\n"
	}
	want := before + begin + table + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Errorf("%s does not say of the metrics what they say themselves; run `make generate`", page)
	}
}

// TestServe: what is read on the socket is what Text says, at its path alone, until the end.
func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	m := metrics.New()
	m.Store().Failed()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(ctx, l) }()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	get := func(path string) (int, string) {
		answer, err := client.Get("http://agent" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	text, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get("/metrics"); status != http.StatusOK || ours(body) != ours(text) || !strings.Contains(body, "vdsm_agent_store_failures_total 1") {
		t.Errorf("/metrics answers %d:\n%s", status, body)
	}
	if status, _ := get("/other"); status != http.StatusNotFound {
		t.Errorf("/other answers %d", status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the end is an error: %v", err)
	}
	if l, err = net.Listen("unix", path+"2"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), m.Serve(t.Context(), l)); err == nil {
		t.Error("a socket that is closed is served")
	}
}
