package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
)

// Request is one call of a method.
type Request struct {
	// Params is a JSON object; nil when there are none. Parameters that came as an array have their names here.
	Params json.RawMessage
	// Who asks, for audit trails and messages: "root (pid 4711)".
	Who string
	// Flow is the correlation id that came with the frame, "" = none. A parameter flowID goes before it.
	Flow string

	conn *connection
}

// Method is a verb that clients can call. All fields but Name and Handle may be left out.
type Method struct {
	Name    string   // "Task.stop"
	Aliases []string // "stopTask"
	Doc     string   // one sentence that says what it does
	Role    access.Role
	// Params is the zero value of the struct that names the parameters, in the order in which they may come as an array;
	// nil = none.
	Params any
	// Result is the zero value of what it answers, for schemas; nil = true.
	Result  any
	Ours    bool // not a verb of VDSM: unknown parameters are refused
	Task    bool // makes a task: taskID and flowID may be given besides Params, the answer is the task's id
	Job     bool // the task is a job: job_id must be given instead of taskID, the answer is true
	Cancels bool // starts although others of its connection wait for their turn
	Instant bool // never blocks: it is answered whatever else its connection has asked
	// Contract is the row of the cancel matrix, for a verb that makes a task.
	Contract *wire.Contract
	// Handle answers. A nil result is answered as true, a json.RawMessage as it is. An error is answered with the code it carries, 100 without. ctx
	// ends with the connection and with the agent.
	Handle func(ctx context.Context, r *Request) (any, error)

	told func(code.Code, time.Duration) // tells the server's observer of each answer
}

// fields lists the parameters in the order of an array.
func (m *Method) fields() (out []param.Field) {
	for _, d := range m.described() {
		out = append(out, d.Field)
	}
	return out
}

// described is fields with schemas.
func (m *Method) described() []param.Described {
	var own []param.Described
	if m.Params != nil {
		own = param.DescribeSchemas(m.Params)
	}
	more := m.extras(own)
	if m.Job { // VDSM's come in this order
		return slices.Concat(more[:1], own, more[1:])
	}
	return append(own, more...)
}

// named gives parameters that came as an array their names.
func (m *Method) named(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 || raw[0] != '[' {
		return raw, nil
	}
	fields := m.fields()
	object := bytes.NewBufferString("{")
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for i := 0; d.More(); i++ {
		if i == len(fields) {
			return nil, code.Errorf(code.InvalidParameter, "%s takes %d parameters at most; give them by name", m.Name, len(fields))
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		name, err := json.Marshal(fields[i].Name)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			object.WriteByte(',')
		}
		object.Write(name)
		object.WriteByte(':')
		object.Write(value)
	}
	object.WriteByte('}')
	return object.Bytes(), nil
}

// describe is the method's row in the answer of rpc.methods.
func (m *Method) describe() wire.Method {
	return wire.Method{
		Name: m.Name, Aliases: wire.OrEmpty(m.Aliases), Doc: m.Doc, Role: m.Role.String(), Ours: m.Ours, Task: m.Task,
		Params: wire.OrEmpty(m.fields()),
	}
}

// with completes a method by a function that gets its parameters decoded.
func with[P any](m Method, handle func(context.Context, *Request, P) (any, error)) Method {
	var zero P
	m.Params = zero
	m.Handle = func(ctx context.Context, r *Request) (any, error) {
		var p P
		if err := param.Decode(r.Params, &p, param.Strictness(m.Ours)); err != nil {
			return nil, err
		}
		return handle(ctx, r, p)
	}
	return m
}
