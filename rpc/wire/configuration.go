package wire

// Configuration is the answer of Host.getConfiguration.
type Configuration struct {
	Settings []Setting `json:"settings"`          // in the order of the shipped file
	Refused  []string  `json:"refused,omitempty"` // what is wrong with the files as they are now: what was in force before stays
}

// Setting is a key of the configuration.
type Setting struct {
	Section string          `json:"section"`
	Key     string          `json:"key"`
	Value   string          `json:"value"`   // in force; "" = none
	Origin  string          `json:"origin"`  // "default", file and line, or the daemon's flag
	Restart bool            `json:"restart"` // a change needs a restart
	Pending *PendingSetting `json:"pending,omitempty"`
}

// PendingSetting is what a key will be after a restart.
type PendingSetting struct {
	Value  string `json:"value"`
	Origin string `json:"origin"`
}
