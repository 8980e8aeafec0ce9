// Package version says which build this is: what the build wrote into the binary (scripts/version.sh), or else what the Go tool stamps into it, as far
// as it does. It imports nothing of the project; the commands may import it.
package version

import (
	"fmt"
	"runtime/debug"
)

// Build is what is known of a program's origin.
type Build struct {
	Version  string `json:"version"`            // tag, or pseudo-version of the commit; "(devel)" outside of a checkout
	Revision string `json:"revision,omitempty"` // commit
	Date     string `json:"date,omitempty"`     // of the commit
	Go       string `json:"go"`
}

// String is the build in a line: "1.2.0 (commit 1234567890ab of 2026-01-02T03:04:05Z)".
func (b Build) String() string {
	if b.Revision == "" {
		return b.Version
	}
	return fmt.Sprintf("%s (commit %.12s of %s)", b.Version, b.Revision, b.Date)
}

// What the linker writes.
var version, commit, date string

// Get reads it from the running binary.
func Get() Build {
	info, known := debug.ReadBuildInfo()
	if !known {
		return Build{Version: "unknown"}
	}
	b := Build{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Date = s.Value
		}
	}
	if version != "" {
		b.Version, b.Revision, b.Date = version, commit, date
	}
	return b
}
