package rpc_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/tasks"

	"github.com/google/uuid"
)

// submissions is an Engine whose tasks are only written down.
type submissions struct {
	rpc.Engine
	verbs []*tasks.Verb
	all   []tasks.Submission
}

func (s *submissions) Verbs() []*tasks.Verb { return s.verbs }

func (s *submissions) Submit(_ context.Context, sub tasks.Submission) (string, error) {
	s.all = append(s.all, sub)
	return sub.ID, nil
}

// TestSubmitSeparates: what belongs to the submission does not reach the verb, unless the verb has such a parameter itself.
func TestSubmitSeparates(t *testing.T) {
	type plain struct {
		A int `json:"a"`
		B int `json:"b" default:"0"`
	}
	type own struct {
		TaskID string `json:"taskID" default:""`
	}
	type withID struct {
		Job string `json:"jobUUID" default:""`
	}
	const id, other = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
	cases := []struct {
		name, verb, params string
		want               tasks.Submission
	}{
		{"nothing", "Plain", ``, tasks.Submission{Params: []byte(`{}`)}},
		{"null", "Plain", `null`, tasks.Submission{Params: []byte(`{}`)}},
		{"its own", "Plain", `{"b":2,"a":1}`, tasks.Submission{Params: []byte(`{"a":1,"b":2}`)}},
		{"its own, as an array", "Plain", `[1,2]`, tasks.Submission{Params: []byte(`{"a":1,"b":2}`)}},
		{"all, as an array", "Plain", `[1,null,"` + id + `","f"]`, tasks.Submission{ID: id, Flow: "f", Params: []byte(`{"a":1,"b":null}`)}},
		{"an id and a flow", "Plain", `{"taskID":"` + id + `","flowID":"f","a":1}`, tasks.Submission{ID: id, Flow: "f", Params: []byte(`{"a":1}`)}},
		{"the blank id is none", "Plain", `{"taskID":"00000000-0000-0000-0000-000000000000"}`, tasks.Submission{Params: []byte(`{}`)}},
		{"an empty id and flow are none", "Plain", `{"taskID":null,"flowID":""}`, tasks.Submission{Params: []byte(`{}`)}},
		{"unknown ones are the verb's to judge", "Plain", `{"x":1}`, tasks.Submission{Params: []byte(`{"x":1}`)}},
		{"large numbers stay", "Plain", `{"a":18446744073709551617}`, tasks.Submission{Params: []byte(`{"a":18446744073709551617}`)}},
		{"a taskID of its own", "Own", `{"taskID":"any","flowID":"f"}`, tasks.Submission{Flow: "f", Params: []byte(`{"taskID":"any"}`)}},
		{"a taskID of its own, as an array", "Own", `["any","f"]`, tasks.Submission{Flow: "f", Params: []byte(`{"taskID":"any"}`)}},
		{"an id by a parameter of the verb's", "Named", `{"jobUUID":"` + id + `"}`, tasks.Submission{ID: id, Params: []byte(`{"jobUUID":"` + id + `"}`)}},
		{"a taskID goes before it", "Named", `{"jobUUID":"` + id + `","taskID":"` + other + `"}`, tasks.Submission{ID: other, Params: []byte(`{"jobUUID":"` + id + `"}`)}},
		{"a verb without parameters", "None", `{"taskID":"` + id + `"}`, tasks.Submission{ID: id, Params: []byte(`{}`)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &submissions{verbs: named(tasks.Verb{Name: "Plain", Params: plain{}}, tasks.Verb{Name: "Own", Params: own{}}, tasks.Verb{Name: "None"},
					tasks.Verb{Name: "Named", Params: withID{}, IDParam: "jobUUID", AnswersTrue: true})}
				h := newHouse(t, rpc.Methods(e, nil)...)
				cl := client.New(h.dial())
				defer cl.Close()
				var params any
				if c.params != "" {
					params = json.RawMessage(c.params)
				}
				var answer any
				if err := cl.Call(t.Context(), c.verb, params, &answer); err != nil {
					t.Fatal(err)
				}
				if isTrue := answer == any(true); isTrue != (c.verb == "Named") {
					t.Errorf("the answer is %v", answer)
				}
				got := e.all[0]
				if got.Verb != c.verb || got.ID != c.want.ID || got.Flow != c.want.Flow || string(got.Params) != string(c.want.Params) || got.Who == "" {
					t.Errorf("submitted %+v with %s", got, got.Params)
				}
			})
		})
	}
}

// TestSubmitRefuses what cannot be kept with a task, before anything is done.
func TestSubmitRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &submissions{verbs: named(tasks.Verb{Name: "Plain"})}
		h := newHouse(t, rpc.Methods(e, nil)...)
		cl := client.New(h.dial())
		defer cl.Close()
		for name, params := range map[string]any{
			"at most":     map[string]string{"a": strings.Repeat("x", rpc.MaxTaskParams)},
			"is not a UU": map[string]string{"taskID": strings.ToUpper(uuid.NewString())},
			"255 bytes":   map[string]string{"flowID": strings.Repeat("x", 256)},
		} {
			wantCode(t, cl.Call(t.Context(), "Plain", params, nil), code.InvalidParameter, name)
		}
		if len(e.all) != 0 {
			t.Errorf("submitted %v", e.all)
		}
	})
}

// slowCancel is an Engine whose cancel of a flow takes until it is let go.
type slowCancel struct {
	submissions
	begun, letGo chan struct{}
	ctx          chan error // its ctx's, at the end
}

func (s *slowCancel) CancelFlow(ctx context.Context, _, _ string, _ bool) ([]tasks.FlowChange, error) {
	close(s.begun)
	select {
	case <-s.letGo:
	case <-ctx.Done():
	}
	s.ctx <- ctx.Err()
	return nil, ctx.Err()
}

// TestFlowCancelOutlivesItsClient: the cancel of a flow is not cut short when the client goes away.
func TestFlowCancelOutlivesItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &slowCancel{begun: make(chan struct{}), letGo: make(chan struct{}), ctx: make(chan error, 1)}
		h := newHouse(t, rpc.Methods(e, nil)...)
		cl := client.New(h.dial())
		go cl.Call(t.Context(), "Flow.cancel", map[string]string{"flowID": "f"}, nil)
		<-e.begun
		cl.Close()
		synctest.Wait()
		close(e.letGo)
		if err := <-e.ctx; err != nil {
			t.Errorf("it was cut short: %v", err)
		}
	})
}

// named gives verbs what every verb must have.
func named(verbs ...tasks.Verb) (out []*tasks.Verb) {
	for _, v := range verbs {
		v.Role, v.Doc = access.Operate, "Test."
		out = append(out, &v)
	}
	return out
}
