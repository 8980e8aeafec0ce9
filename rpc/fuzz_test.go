package rpc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"vdsm-agent/rpc"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/tasks/tasktest/mock"

	"github.com/rs/zerolog"
)

// FuzzRequest sends any line to a server over a real engine: every answer is one of JSON-RPC, none says that the agent has a
// defect, and the connection goes on.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"Mock.run","params":{"steps":[{"name":"p"}],"taskID":"11111111-2222-4333-8444-555555555555"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"Mock.run","params":{"steps":[],"flowID":"f"}}`, `{"jsonrpc":"2.0","method":"Mock.run","params":[[{}]]}`,
		`{"jsonrpc":"2.0","id":1,"method":"Task.stop","params":{"taskID":"no","force":true,"dryRun":true}}`,
		`{"jsonrpc":"2.0","id":"x","method":"Task.clear","params":["11111111-2222-4333-8444-555555555555"]}`,
		`{"jsonrpc":"2.0","id":null,"method":"Host.getAllTasks","params":{"state":"running"}}`, `{"jsonrpc":"2.0","id":2,"method":"rpc.methods"}`,
		`[{"jsonrpc":"2.0","id":1,"method":"Flow.cancel","params":{"flowID":"f","revert":true}},{"jsonrpc":"2.0","id":2,"method":"Flow.list"}]`,
		`{"jsonrpc":"2.0","id":1,"method":"Task.getDetails","params":{"taskID":7}}`, `{`, `[[]]`, "\xff", `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		// A line of its own: what would block for long, or ask for much time, is the client's to give up.
		line := bytes.ReplaceAll(bytes.ReplaceAll(in, []byte("\n"), []byte(" ")), []byte("blocks"), []byte("b"))
		e := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: mock.Verbs(mock.NewWorld()), Log: zerolog.Nop()})
		if err := e.Start(nil); err != nil {
			t.Fatal(err)
		}
		server := rpc.New(rpc.Options{})
		server.Handle(rpc.Methods(e, nil))
		server.SetReady()
		ctx, shut := context.WithCancel(context.Background())
		l := newPipes()
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx, l, piped{}) }()
		conn := l.dial()
		go func() {
			_, _ = conn.Write(append(line, "\n"+`{"jsonrpc":"2.0","method":"rpc.methods","id":"the last"}`+"\n"...)) // a failure shows below
		}()
		answers := bufio.NewReaderSize(conn, 1<<20)
		for last := false; !last; {
			text, err := answers.ReadBytes('\n')
			if err != nil {
				t.Fatalf("the connection has ended: %v", err)
			}
			last = checkAnswer(t, text)
		}
		shut()
		_ = conn.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// checkAnswer fails unless text is an answer of JSON-RPC or an array of some, and says whether it is the last.
func checkAnswer(t *testing.T, text []byte) (last bool) {
	t.Helper()
	all := []json.RawMessage{text}
	if text[0] == '[' {
		if err := json.Unmarshal(text, &all); err != nil || len(all) == 0 {
			t.Fatalf("not answers: %s (%v)", text, err)
		}
	}
	for _, raw := range all {
		var a struct {
			Version string          `json:"jsonrpc"`
			ID      json.RawMessage `json:"id"`
			Result  json.RawMessage `json:"result"`
			Error   *struct {
				Code    int
				Message string
			}
		}
		if err := json.Unmarshal(raw, &a); err != nil || a.Version != "2.0" || a.ID == nil || (a.Result == nil) == (a.Error == nil) {
			t.Fatalf("not an answer: %s (%v)", raw, err)
		}
		if a.Error != nil && (a.Error.Code == 0 || a.Error.Code == -32603 || a.Error.Message == "") {
			t.Fatalf("a defect of the agent: %s", raw)
		}
		last = last || string(a.ID) == `"the last"`
	}
	return last
}
