package rpc_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/internal/param"
)

// What oVirt's engine takes, of an answer to what it polls or sends; everything else makes it throw, or forget a task. It reads JSON as
// Jackson does: a number with a point is a Double, one without an Integer or a Long, and each is cast to what is expected.

var (
	engineStates   = []string{"unknown", "init", "running", "finished", "aborting", "cleaning"}
	engineResults  = []string{"success", "failure", "cleanSuccess", "cleanFailure", "unknown"} // of a finished task
	engineJobs     = []string{"pending", "running", "done", "aborted", "failed"}
	engineJobTypes = []string{"storage", "v2v", "virt"}
)

// engineReads are the methods that the engine calls about tasks and jobs, by all of their names here, and how it reads the answers.
var engineReads = map[string]func(any) error{
	"Host.getAllTasksStatuses": mapOf(engineStatus),
	"getAllTasksStatuses":      mapOf(engineStatus),
	"Host.getAllTasksInfo":     mapOf(engineInfo),
	"getAllTasksInfo":          mapOf(engineInfo),
	"Task.getStatus":           engineOneStatus,
	"getTaskStatus":            engineOneStatus,
	"Host.getJobs":             mapOf(engineJob),
	"Task.stop":                engineDone, "stopTask": engineDone,
	"Task.revert": engineDone, "revertTask": engineDone,
	"Task.clear": engineDone, "clearTask": engineDone,
	"Job.abort": engineDone, "Job.delete": engineDone, "Host.ping": engineDone, "Host.ping2": engineDone, "Mock.job": engineDone,
	"Mock.run": engineUUID,
}

// checkEngine fails if the engine could not read an answer.
func (s *script) checkEngine(answer string) {
	var a struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    json.RawMessage `json:"code"`
			Message *string         `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal([]byte(answer), &a) != nil {
		return // a batch
	}
	if a.Error != nil {
		if code := string(a.Error.Code); strings.ContainsAny(code, ".eE\"") || a.Error.Message == nil || a.Result != nil {
			s.t.Errorf("the engine cannot read this refusal: %s", answer)
		}
		return
	}
	asked := s.asked[string(a.ID)]
	read, polled := engineReads[asked.method]
	if !polled || a.Result == nil || asked.ours {
		return
	}
	if err := read(jackson(a.Result)); err != nil {
		s.t.Errorf("the engine cannot read this answer to %s: %v\n%s", asked.method, err, answer)
	}
}

// integer is a JSON number without a point or an exponent; one with them is a float64.
type integer int64

// jackson reads JSON with what Java makes of its numbers.
func jackson(raw json.RawMessage) any {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic(err) // it was decoded before
	}
	return typed(v)
}

func typed(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = typed(v[k])
		}
	case []any:
		for i := range v {
			v[i] = typed(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return integer(n)
		}
		f, _ := v.Float64()
		return f
	}
	return v
}

func mapOf(one func(id string, entry map[string]any) error) func(any) error {
	return func(v any) error {
		all, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("it is no object")
		}
		for id, entry := range all {
			object, ok := entry.(map[string]any)
			if !ok {
				return fmt.Errorf("the entry of %s is no object", id)
			}
			if err := one(id, object); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
		}
		return nil
	}
}

// engineStatus is one task of those that are polled.
func engineStatus(id string, t map[string]any) error {
	if !param.ValidUUID(id) {
		return fmt.Errorf("the id is no UUID")
	}
	return engineOneStatus(t)
}

func engineOneStatus(v any) error {
	t, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("it is no object")
	}
	code, ok := t["code"].(integer)
	if !ok || code > math.MaxInt32 || code < math.MinInt32 {
		return fmt.Errorf("code %v is no Integer", t["code"])
	}
	state, result := t["taskState"], t["taskResult"]
	word, ok := result.(string)
	if _, message := t["message"].(string); !message || !ok || !slices.Contains(engineStates, fmt.Sprint(state)) {
		return fmt.Errorf("message, taskState or taskResult are not what it knows")
	}
	if state == "finished" && !slices.Contains(engineResults, word) {
		return fmt.Errorf("a finished task has the result %q", word)
	}
	if word == "success" && code != 0 {
		return fmt.Errorf("it is a success with the code %d", code)
	}
	return nil
}

func engineInfo(id string, t map[string]any) error {
	for key, value := range t {
		if _, ok := value.(string); !ok {
			return fmt.Errorf("%s is no String", key)
		}
	}
	if t["id"] != id || t["verb"] == "" {
		return fmt.Errorf("id or verb are missing")
	}
	return nil
}

func engineJob(id string, j map[string]any) error {
	if j["id"] != id || !param.ValidUUID(id) {
		return fmt.Errorf("the id is no UUID, or another one")
	}
	if !slices.Contains(engineJobs, fmt.Sprint(j["status"])) || !slices.Contains(engineJobTypes, fmt.Sprint(j["job_type"])) {
		return fmt.Errorf("status %v or job_type %v are not what it knows", j["status"], j["job_type"])
	}
	if _, ok := j["description"].(string); !ok {
		return fmt.Errorf("the description is no String")
	}
	if progress, there := j["progress"]; there {
		if _, ok := progress.(float64); !ok {
			return fmt.Errorf("progress %v is no Double", progress)
		}
	}
	failure, failed := j["error"].(map[string]any)
	if _, ok := failure["code"].(integer); failed && !ok {
		return fmt.Errorf("the error's code is no Integer")
	}
	if (j["status"] == "failed" || j["status"] == "aborted") != failed {
		return fmt.Errorf("a job that is %v has the error %v", j["status"], j["error"])
	}
	return nil
}

// engineDone is the answer of a verb that answers nothing.
func engineDone(v any) error {
	if v != true {
		return fmt.Errorf("it is not true")
	}
	return nil
}

func engineUUID(v any) error {
	if id, ok := v.(string); !ok || !param.ValidUUID(id) {
		return fmt.Errorf("it is no UUID")
	}
	return nil
}

// TestEngineModel: the model of the engine refuses what the engine refuses.
func TestEngineModel(t *testing.T) {
	for _, c := range []struct{ method, answer string }{
		{"Task.getStatus", `{"taskID":"a","taskState":"finished","taskResult":"","code":0,"message":""}`},
		{"Task.getStatus", `{"taskID":"a","taskState":"recovering","taskResult":"","code":0,"message":""}`},
		{"Task.getStatus", `{"taskID":"a","taskState":"running","taskResult":"","code":"0","message":""}`},
		{"Task.getStatus", `{"taskID":"a","taskState":"running","taskResult":"","code":0.0,"message":""}`},
		{"Task.getStatus", `{"taskID":"a","taskState":"running","taskResult":"","code":0,"message":null}`},
		{"Task.getStatus", `{"taskID":"a","taskState":"finished","taskResult":"success","code":411,"message":"stopped"}`},
		{"Host.getAllTasksStatuses", `{"not-a-uuid":{"taskState":"running","taskResult":"","code":0,"message":""}}`},
		{"Host.getAllTasksInfo", `{"a":{"id":"a","verb":"copyImage","n":1}}`},
		{"Host.getJobs", `{"00000000-0000-4000-8000-000000000001":{"id":"00000000-0000-4000-8000-000000000001","status":"aborting","job_type":"storage","description":""}}`},
		{"Host.getJobs", `{"00000000-0000-4000-8000-000000000001":{"id":"00000000-0000-4000-8000-000000000001","status":"running","job_type":"storage","description":"","progress":12}}`},
		{"Task.stop", `null`}, {"Mock.run", `true`},
	} {
		if err := engineReads[c.method](jackson(json.RawMessage(c.answer))); err == nil {
			t.Errorf("the engine would not read this answer to %s, the model does: %s", c.method, c.answer)
		}
	}
}
