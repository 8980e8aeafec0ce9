package rpc

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/openrpc"
	"vdsm-agent/rpc/wire"

	"github.com/google/jsonschema-go/jsonschema"
)

// Document describes every method that the server has: the answer of rpc.discover.
func (s *Server) Document() openrpc.Document {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []openrpc.Method
	for _, name := range slices.Sorted(maps.Keys(s.methods)) {
		if m := s.methods[name]; m.Name == name {
			all = append(all, m.document())
		}
	}
	return openrpc.New(all)
}

// discover is the document as JSON, which is made once for the methods that there are.
func (s *Server) discover() (json.RawMessage, error) {
	s.mu.RLock()
	made := s.document
	s.mu.RUnlock()
	if made != nil {
		return made, nil
	}
	made, err := json.Marshal(s.Document())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.document = made
	return made, nil
}

func (m *Method) document() openrpc.Method {
	d := openrpc.Method{
		Name: m.Name, Summary: m.Doc, ParamStructure: "either", Params: openrpc.Params(m.described()), Result: m.result(), Aliases: m.Aliases,
		Role: m.Role.String(), Strict: m.Ours, Errors: slices.Clone(refusals),
	}
	switch {
	case m.Job:
		d.Tags = []openrpc.Tag{{Name: "job"}}
	case m.Task:
		d.Tags = []openrpc.Tag{{Name: "task"}}
	}
	if m.Task {
		d.Errors = append(d.Errors,
			openrpc.Error{Code: int(code.AddTask), Message: "the id is taken by another task, or too many tasks wait"},
			openrpc.Error{Code: int(code.FlowCancelled), Message: "its flow was cancelled"})
	}
	if m.Contract != nil {
		d.Contract = m.Contract
	}
	return d
}

// refusals are what every method may answer.
var refusals = []openrpc.Error{
	{Code: int(code.RecoveryInProgress), Message: "the agent is starting; ask again"},
	{Code: int(code.NotAllowed), Message: "the caller's role is too low"},
	{Code: int(code.InvalidParameter), Message: "a parameter is missing or impossible"},
	{Code: int(code.ResourceExhausted), Message: "this connection has asked too much at once"},
	{Code: int(code.ShuttingDown), Message: "the agent is shutting down"},
}

// result is the schema of what the method answers.
func (m *Method) result() openrpc.Value {
	switch {
	case m.Result == nil:
		done := any(true)
		return openrpc.Value{Name: "done", Schema: &jsonschema.Schema{Type: "boolean", Const: &done}}
	case m.Task:
		return openrpc.Value{Name: "taskID", Description: "the id of the task", Schema: param.SchemaOf(reflect.TypeOf(m.Result), answers)}
	}
	return openrpc.Value{Name: "answer", Schema: param.SchemaOf(reflect.TypeOf(m.Result), answers)}
}

// answers are the schemas of answers that are of one kind or of another.
var answers = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[wire.Percent](): {Type: "number"},
	reflect.TypeFor[wire.Ended](): {Description: "true; or with wait, the state; or with dryRun, what a stop would do", AnyOf: []*jsonschema.Schema{
		{Type: "boolean"}, param.SchemaOf(reflect.TypeFor[wire.TaskStatus](), nil), param.SchemaOf(reflect.TypeFor[wire.Preview](), nil),
	}},
	reflect.TypeFor[wire.TaskList](): {Description: "all tasks by id; or with limit, a page", AnyOf: []*jsonschema.Schema{
		param.SchemaOf(reflect.TypeFor[wire.TaskPage](), nil), param.SchemaOf(reflect.TypeFor[map[string]wire.Task](), nil),
	}},
}
