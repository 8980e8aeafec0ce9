package prove

import (
	"slices"
	"strings"

	"vdsm-agent/tasks"
)

// subject is a case with what is known of it before any fault.
type subject struct {
	Case
	pack      string
	bound     int64 // of the verb, in ns
	exclusive []tasks.Lock
	before    string // what is seen before the submit
	ends      tasks.State
	should    tasks.State // the end that it should have then; "" = any
	finished  string      // what is seen when the undisturbed task has finished
	refusable bool
	durable   bool     // see Config
	whole     []string // what may be published; see Publisher
}

// newSubject asks the verb for its plan.
func newSubject(pack string, c Case) (*subject, error) {
	s := &subject{Case: c, pack: pack}
	w := c.World()
	s.before = w.Seen()
	s.publish(w)
	for _, v := range w.Verbs(func(*tasks.Scope, string) error { return nil }) {
		if v.Name != c.Verb {
			continue
		}
		s.bound = int64(v.Contract.Bound)
		plan, err := v.Plan(mainID, c.Params)
		if err != nil {
			return nil, err
		}
		for _, l := range plan.Locks {
			s.exclusive = append(s.exclusive, tasks.Lock{Key: l.Key, Exclusive: true})
		}
		s.refusable = slices.ContainsFunc(plan.Steps, func(s tasks.Step) bool { return s.Refused != nil })
	}
	return s, nil
}

// publish adds what the world has published now to what may be.
func (s *subject) publish(w World) {
	if p, ok := w.(Publisher); ok {
		s.whole = append(s.whole, p.Published()...)
	}
}

const trashPrefix = "trash "

// split separates what everybody sees from the trash.
func split(seen string) (things, trash string) {
	var a, b []string
	for line := range strings.SplitSeq(seen, "\n") {
		if strings.HasPrefix(line, trashPrefix) {
			b = append(b, line)
		} else {
			a = append(a, line)
		}
	}
	return strings.Join(a, "\n"), strings.Join(b, "\n")
}
