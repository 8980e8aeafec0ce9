package domaincheck

import (
	"cmp"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

// The severities, the worst first.
const (
	Error   Severity = "error"   // data cannot be used as it is, or what VDSM or this agent does there fails
	Warning Severity = "warning" // room is lost, something is in the way, or will be
	Note    Severity = "note"    // as it should be, and good to know
)

var severities = []Severity{Error, Warning, Note}

// Action is what a repair does.
type Action string

// The actions. Each can be taken back.
const (
	Trash       Action = "trash"       // move it to the trash of the domain
	Rewrite     Action = "rewrite"     // write the volume's metadata anew with one value changed
	Link        Action = "link"        // link a template's files into a derived image again
	Permissions Action = "permissions" // give it the mode and owner that it should have
)

// Finding is one thing that was found.
type Finding struct {
	Class    Class    `json:"class"`
	Severity Severity `json:"severity"`
	Path     string   `json:"path"` // in the domain
	Image    string   `json:"image,omitempty"`
	Volume   string   `json:"volume,omitempty"`
	Message  string   `json:"message"`          // one sentence
	Remedy   string   `json:"remedy"`           // what can be done
	Repair   Action   `json:"repair,omitempty"` // what Domain.repair would do; "" = nothing is offered
	Task     string   `json:"task,omitempty"`   // that is at work there, or that it belongs to
	Fix      *Fix     `json:"-"`
}

// Report is what a check has found.
type Report struct {
	Path     string    `json:"path"`
	UUID     string    `json:"uuid"`
	Name     string    `json:"name"`
	Type     string    `json:"type"`
	Version  int       `json:"version"`
	Images   int       `json:"images"`
	Volumes  int       `json:"volumes"`
	Deep     bool      `json:"deep"`
	Findings []Finding `json:"findings"`

	scan *scan
}

// Count returns how many findings have the severity.
func (r *Report) Count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Find returns the finding of that class at that path, nil if there is none (any more).
func (r *Report) Find(class Class, path string) *Finding {
	for i, f := range r.Findings {
		if f.Class == class && f.Path == path {
			return &r.Findings[i]
		}
	}
	return nil
}

// sort puts the worst first; what is in one place stays together.
func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)),
			strings.Compare(a.Path, b.Path), strings.Compare(string(a.Class), string(b.Class)))
	})
}
