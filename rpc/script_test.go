package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/rs/zerolog"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into the scripts; look at the difference before you keep it")

// TestScripts plays each testdata/*.txt against a server with a real engine over a store in memory, in a bubble of its
// own (time begins at 2000-01-01; locks are waited for a minute), and compares what happens with what the file says:
//
//	# a comment, or an empty line
//	> a line that the client sends; right after it stand all answers that it has got when everything is at rest
//	< an answer
//	= a command to the test: until TASK STATE; ready; status TEXT; flow ID (of the frames from now on); after DURATION;
//	  hold PLACE (where the mock verb shall stop), go (on from there); release (what it blocks on, and its workers)
//
// So an answer that should not be there fails as well as one that is missing.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = newScript(t).play(string(want)) })
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("%s\n%s", file, difference(string(want), got))
			}
		})
	}
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	last := ""
	for i := range max(len(w), len(g)) {
		a, b := line(w, i), line(g, i)
		if strings.HasPrefix(a, ">") {
			last = a
		}
		if a != b {
			return last + "\nwant " + a + "\ngot  " + b
		}
	}
	return "no difference"
}

func line(all []string, i int) string {
	if i < len(all) {
		return all[i]
	}
	return "(the end)"
}

// script is one client, its server, and what is behind it.
type script struct {
	t       *testing.T
	server  *rpc.Server
	engine  *tasks.Engine
	world   *mock.World
	framing *taggedLines
	client  net.Conn
	answers chan string
	asked   map[string]asked // by the id of the request
	held    atomic.Pointer[hold]
	out     strings.Builder
}

// asked is what is known of a request.
type asked struct {
	method string
	ours   bool // it has a parameter that no engine sends, and that makes another answer
}

// checkSchema fails if an answer is not what the published schema of its method says.
func (s *script) checkSchema(answer string) {
	var a struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
	}
	if json.Unmarshal([]byte(answer), &a) != nil || a.Result == nil {
		return // a batch, or a refusal
	}
	method := s.asked[string(a.ID)].method
	schema := s.schemas()[method]
	if schema == nil {
		return
	}
	var value any
	if err := json.Unmarshal(a.Result, &value); err != nil {
		s.t.Fatal(err)
	}
	if err := schema.Validate(value); err != nil {
		s.t.Errorf("the answer of %s is not what its schema says: %v\n%s", method, err, answer)
	}
}

// schemas are those of all answers, by the methods' names and aliases. They are the same for each script, and cost much to make.
func (s *script) schemas() map[string]*jsonschema.Resolved {
	published.once.Do(func() {
		published.of = map[string]*jsonschema.Resolved{}
		for _, m := range s.server.Document().Methods {
			schema, err := m.Result.Schema.Resolve(nil)
			if err != nil {
				panic(fmt.Sprintf("the schema of %s: %v", m.Name, err))
			}
			for _, name := range append([]string{m.Name}, m.Aliases...) {
				published.of[name] = schema
			}
		}
	})
	return published.of
}

var published struct {
	once sync.Once
	of   map[string]*jsonschema.Resolved
}

// hold stops the mock verb at a place, see mock.World.Reached.
type hold struct {
	place string
	over  chan struct{}
}

func newScript(t *testing.T) *script {
	s := &script{t: t, world: mock.NewWorld(), asked: map[string]asked{}, answers: make(chan string, 1000)}
	s.world.Reached = func(place, _, _ string) {
		if h := s.held.Load(); h != nil && h.place == place {
			<-h.over
		}
	}
	s.engine = tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: verbs(s.world), Log: zerolog.Nop(), Tuning: tasks.Tuning{LockWait: time.Minute}})
	if err := s.engine.Start(nil); err != nil {
		t.Fatal(err)
	}
	s.server = rpc.New(rpc.Options{Log: zerolog.Nop()})
	s.server.Handle(rpc.Methods(s.engine, calls))
	s.server.Feed(s.engine)
	server, client := net.Pipe()
	s.client = client
	s.framing = &taggedLines{Lines: stream.NewLines(server, stream.MaxMessage)}
	ctx, end := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.server.ServeMessages(ctx, s.framing, rpc.Peer{Name: "tester", Role: access.Admin})
	}()
	go func() {
		defer close(s.answers)
		for lines := bufio.NewReader(client); ; {
			text, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			s.answers <- text
		}
	}()
	t.Cleanup(func() {
		end()
		<-served
		if err := s.engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// verbs are the mock verb, one that has a taskID of its own, and one whose row of the contract is full.
func verbs(w *mock.World) []*tasks.Verb {
	type own struct {
		TaskID string `json:"taskID" default:""`
	}
	return append(mock.Verbs(w), &tasks.Verb{
		Role: access.Operate, Doc: "Empty the trash.", Name: "Trash.empty", Params: own{}, Ours: true, Class: tasks.ClassLight,
		Plan: func(_ string, raw json.RawMessage) (*tasks.Plan, error) {
			return &tasks.Plan{Tag: tasks.TagSPM}, param.Decode(raw, &own{}, param.Strict)
		},
		Contract: tasks.Contract{
			CancellableUntil: "wipe", PointOfNoReturn: "wipe", DecidedBy: "qemu-img", Undo: "all is back", Remainder: "some of it",
			Bound: 1500 * time.Millisecond,
		},
	})
}

// calls answer at once, each in its own way.
var calls = []tasks.Call{
	{Name: "Host.echo", Role: access.Observe, Doc: "Test.", Result: echoParams{}, Params: echoParams{}, Answer: func(_ context.Context, raw json.RawMessage) (any, error) {
		var p echoParams
		err := param.Decode(raw, &p, param.Lenient)
		return p, err
	}},
	{Name: "Test.nothing", Role: access.Observe, Doc: "Test.", Ours: true, Answer: func(context.Context, json.RawMessage) (any, error) { return nil, nil }},
	{Name: "Test.panics", Role: access.Observe, Doc: "Test.", Ours: true, Answer: func(context.Context, json.RawMessage) (any, error) { panic("a defect") }},
	{Name: "Test.fails", Role: access.Observe, Doc: "Test.", Ours: true, Answer: func(context.Context, json.RawMessage) (any, error) { return nil, os.ErrNotExist }},
	{Name: "Test.unwritable", Role: access.Observe, Doc: "Test.", Ours: true, Answer: func(context.Context, json.RawMessage) (any, error) { return make(chan int), nil }},
	{Name: "Test.emptyList", Result: []string{}, Role: access.Observe, Doc: "Test.", Ours: true, Answer: func(context.Context, json.RawMessage) (any, error) { return []string{}, nil }},
}

type echoParams struct {
	Message string    `json:"message"`
	Times   param.Int `json:"times" default:"1"`
}

// taggedLines gives each frame the correlation id that the script has set, as a transport with headers does.
type taggedLines struct {
	*stream.Lines
	flow atomic.Value
}

func (l *taggedLines) ReadMessage() (stream.Message, error) {
	m, err := l.Lines.ReadMessage()
	m.Flow, _ = l.flow.Load().(string)
	return m, err
}

// play plays a script and returns it with what really happened.
func (s *script) play(text string) string {
	s.server.SetReady()
	for scanner := bufio.NewScanner(bytes.NewReader([]byte(text))); scanner.Scan(); {
		line := scanner.Text()
		if strings.HasPrefix(line, "<") {
			continue
		}
		s.out.WriteString(line + "\n")
		switch {
		case strings.HasPrefix(line, "> "), line == ">":
			s.send(strings.TrimPrefix(strings.TrimPrefix(line, ">"), " "))
		case strings.HasPrefix(line, "= "):
			s.command(strings.Fields(line[2:]))
		}
		synctest.Wait()
		s.collect()
	}
	return s.out.String()
}

// notified is the time of an event, which is different each time.
var notified = regexp.MustCompile(`"notify_time":\d{10,}`)

// collect writes the answers down, and then the events: whether an answer comes before the event of what it has done is left to
// chance.
func (s *script) collect() {
	events := ""
	defer func() { s.out.WriteString(events) }()
	for {
		select {
		case answer, open := <-s.answers:
			switch {
			case !open:
				s.out.WriteString("< (the connection is closed)\n")
				return
			case strings.Contains(answer, `"notify_time":`):
				events += "< " + notified.ReplaceAllString(answer, `"notify_time":$$now`)
			default:
				s.checkSchema(answer)
				s.checkEngine(answer)
				s.out.WriteString("< " + answer)
			}
		default:
			return
		}
	}
}

func (s *script) send(line string) {
	var r struct {
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
	}
	if json.Unmarshal([]byte(line), &r) == nil {
		s.asked[string(r.ID)] = asked{r.Method, strings.Contains(line, `"dryRun"`) || strings.Contains(line, `"wait"`)}
	}
	if _, err := s.client.Write([]byte(line + "\n")); err != nil {
		s.t.Error(err)
	}
}

func (s *script) command(words []string) {
	switch words[0] {
	case "until":
		id, state := words[1], tasks.State(words[2])
		ctx, end := context.WithTimeout(context.Background(), time.Hour)
		defer end()
		if v, err := s.engine.Wait(ctx, id, func(v tasks.Summary) bool { return v.State == state }); err != nil {
			s.t.Fatalf("task %s is %s, not %s: %v", id, v.State, state, err)
		}
	case "ready":
		s.server.SetReady()
	case "status":
		s.server.SetStatus(strings.Join(words[1:], " "))
	case "flow":
		s.framing.flow.Store(words[1])
	case "hold":
		s.held.Store(&hold{words[1], make(chan struct{})})
	case "go":
		close(s.held.Swap(nil).over)
	case "release":
		s.world.Release()
	case "after":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		<-time.After(d)
	default:
		s.t.Fatalf("there is no command %q", words[0])
	}
}
