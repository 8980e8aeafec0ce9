// Package doctor looks at everything that the agent needs of its host, says what is not as it should be, and how to mend it. It only reads, asks nobody for
// longer than a few seconds, and needs no daemon: what only a daemon could tell is left out without one. It may be imported by cmd/vdsm-agentctl.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/agent/config"
)

// Severity is how much a finding matters.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Note    Severity = "note"    // is as it is, and worth a word
	Warning Severity = "warning" // works, but not all of it, or not for long
	Error   Severity = "error"   // does not work
)

// Finding is what a look has found.
type Finding struct {
	Check    string   `json:"check"` // what was looked at: "qemu-img"
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`        // a sentence
	Mend     string   `json:"mend,omitempty"` // what to do; "" = nothing
}

// Options are what is looked at.
type Options struct {
	Flags config.Flags // where the daemon's configuration is
	// Call asks the daemon; an error that Unreachable says yes to means that there is none.
	Call        func(ctx context.Context, method string, params, result any) error
	Unreachable func(error) bool
}

// patience is how long anything is waited for.
const patience = 2 * time.Second

// checks are all, in the order in which they are shown.
var checks = []struct {
	name string
	look func(*looker)
}{
	{"configuration", (*looker).configuration},
	{"daemon", (*looker).daemon},
	{"socket", (*looker).socket},
	{"state", (*looker).state},
	{"store", (*looker).store},
	{"clock", (*looker).clock},
	{"qemu-img", (*looker).qemuImg},
	{"cgroup", (*looker).cgroup},
	{"domains", (*looker).domains},
	{"certificates", (*looker).certificates},
	{"libvirt", (*looker).libvirt},
}

// looker is one round of looks.
type looker struct {
	Options
	ctx    context.Context //nolint:containedctx // it lives as long as the round
	config config.Config
	bad    error // why the configuration cannot be read; then config has defaults
	alive  bool  // a daemon answers

	check string // the one that is made
	found []Finding
}

// Look makes all checks.
func Look(ctx context.Context, o Options) []Finding {
	l := &looker{Options: o, ctx: ctx}
	if l.config, l.bad = config.Load(o.Flags); l.bad != nil {
		fallback, err := config.Defaults(o.Flags)
		if err != nil {
			l.check = "configuration"
			l.add(Error, "name another directory", "%s", err)
			return l.found
		}
		l.config = fallback
	}
	for _, c := range checks {
		l.check = c.name
		c.look(l)
	}
	return l.found
}

// Worst is the highest severity.
func Worst(all []Finding) Severity {
	order := []Severity{OK, Note, Warning, Error}
	worst := OK
	for _, f := range all {
		if slices.Index(order, f.Severity) > slices.Index(order, worst) {
			worst = f.Severity
		}
	}
	return worst
}

func (l *looker) add(s Severity, mend, format string, args ...any) {
	l.found = append(l.found, Finding{l.check, s, fmt.Sprintf(format, args...), mend})
}

func (l *looker) ok(format string, args ...any) { l.add(OK, "", format, args...) }

// within answers what look does; false if that takes longer than anybody waits: then it goes on as long as the kernel likes.
func within[T any](look func() T) (v T, answered bool) {
	got := make(chan T, 1)
	go func() { got <- look() }()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case v = <-got:
		return v, true
	case <-late.C:
		return v, false
	}
}
