package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"vdsm-agent/internal/code"

	"github.com/go-json-experiment/json/jsontext"
)

// Call is one request as the client wrote it.
type Call struct {
	Method string
	Params json.RawMessage // an object or an array; nil when there are none
	Flow   string          // the correlation id of its frame

	id    json.RawMessage // as the client wrote it; nil for a notification
	reply *reply
	place int // in the reply
}

// reply gathers the answers to one message.
type reply struct {
	batch   bool       // the answer is an array
	route   string     // of the answer
	answers [][][]byte // by place, each in pieces; nil = none
	open    int        // requests that are not answered yet
}

// join makes one message of the answers; nil when nothing is to be answered. A batch of one was never a batch for VDSM's
// Python client, which sends every request in an array and wants a bare object.
func (r *reply) join() [][]byte {
	if r.open > 0 {
		return nil
	}
	var all [][]byte
	for _, a := range r.answers {
		switch {
		case a == nil:
			continue
		case !r.batch:
			return a
		case all == nil:
			all = append(all, []byte{'['})
		default:
			all = append(all, []byte{','})
		}
		all = append(all, a...)
	}
	if all != nil {
		all = append(all, []byte{']'})
	}
	return all
}

var errNotJSON = errors.New("the message is not JSON in UTF-8")

// split takes a message apart into its requests. batch says whether the answer is an array.
func split(body []byte) (items []json.RawMessage, batch bool, err error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false, errNotJSON
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	if body[0] != '[' {
		return []json.RawMessage{body}, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if _, err := d.Token(); err != nil {
		return nil, false, err
	}
	for d.More() {
		if len(items) == MaxBatch {
			return nil, false, fmt.Errorf("a batch may have %d requests at most; nothing of this one was done", MaxBatch)
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, false, err
		}
		items = append(items, item)
	}
	if len(items) == 0 {
		return nil, false, errors.New("the batch is empty")
	}
	return items, len(items) > 1, nil
}

// parse reads one request. If it is not one, the error says why, and the call has no more than its id, if that could be
// read. Names are exact, and members that JSON-RPC does not know are ignored.
//
// An id of null is answered with null; only a request without any id is a notification. Parameters of null are none.
func parse(item json.RawMessage) (*Call, error) {
	c := &Call{}
	if first(item) != '{' {
		return c, errors.New("a request must be a JSON object")
	}
	var version, method jsontext.Value
	d := jsontext.NewDecoder(bytes.NewReader(item), jsontext.AllowDuplicateNames(true))
	_, err := d.ReadToken()
	for err == nil && d.PeekKind() != '}' {
		var token jsontext.Token
		if token, err = d.ReadToken(); err != nil {
			break
		}
		name := token.String()
		var value jsontext.Value
		if value, err = d.ReadValue(); err != nil {
			break
		}
		value = value.Clone()
		switch name {
		case "jsonrpc":
			version = value
		case "method":
			method = value
		case "params":
			c.Params = json.RawMessage(value)
		case "id":
			c.id = json.RawMessage(value)
		}
	}
	if err != nil {
		return &Call{}, err
	}
	switch kind := first(c.id); {
	case kind == 0, kind == '"', kind == 'n', kind == '-', kind >= '0' && kind <= '9':
	default:
		c.id = nil
		return c, errors.New("the id of a request must be a string or a number")
	}
	var v string
	if first(json.RawMessage(version)) != '"' || json.Unmarshal(version, &v) != nil || v != "2.0" {
		return c, errors.New(`a request must say "jsonrpc":"2.0"`)
	}
	if first(json.RawMessage(method)) != '"' || json.Unmarshal(method, &c.Method) != nil || c.Method == "" {
		return c, errors.New("a request must name its method")
	}
	switch first(c.Params) {
	case 'n':
		c.Params = nil
	case 0, '{', '[':
	default:
		return c, errors.New("the params of a request must be an object or an array")
	}
	return c, nil
}

// first is the first byte of a JSON value, 0 if there is none.
func first(raw json.RawMessage) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// answer writes an answer, in pieces so that a large value is not copied; member is "result" or "error".
func answer(id json.RawMessage, member string, value json.RawMessage) [][]byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	head := make([]byte, 0, len(id)+min(len(value), copied)+len(member)+32)
	head = fmt.Appendf(head, `{"jsonrpc":"2.0","id":%s,"%s":`, id, member)
	if len(value) > copied {
		return [][]byte{head, value, []byte{'}'}}
	}
	return [][]byte{append(append(head, value...), '}')}
}

// copied is the most bytes of a value that are copied rather than kept as a piece of their own.
const copied = 4 << 10

// failure writes an answer that refuses a request.
func failure(id json.RawMessage, number code.Code, message string) [][]byte {
	text, err := json.Marshal(message)
	if err != nil {
		text = []byte(`"the request was refused"`) // a string always marshals
	}
	return answer(id, "error", fmt.Appendf(nil, `{"code":%d,"message":%s}`, number, text))
}
