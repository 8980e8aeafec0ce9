// Package version says which build this is, from what the Go tool stamps into every binary: the tag or commit of the source.
// It imports nothing of the project; the commands may import it.
package version

import "runtime/debug"

// Build is what is known of a program's origin.
type Build struct {
	Version  string `json:"version"`            // tag, or pseudo-version of the commit; "(devel)" outside of a checkout
	Revision string `json:"revision,omitempty"` // commit
	Go       string `json:"go"`
}

// Get reads it from the running binary.
func Get() Build {
	info, known := debug.ReadBuildInfo()
	if !known {
		return Build{Version: "unknown"}
	}
	b := Build{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}
