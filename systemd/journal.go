package systemd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/rs/zerolog"
)

// Journal gives what zerolog writes to journald, with its fields, so that `journalctl TASK_ID=…` shows all of a task's life. Fields that have no name
// of their own below get the prefix VDSM_AGENT_. What journald does not take goes to Else.
type Journal struct {
	Else io.Writer
	send func(message string, priority journal.Priority, fields map[string]string) error
}

// NewJournal makes a Journal. It returns nil when standard error, which is where else goes, does not end in the journal.
func NewJournal(stderr io.Writer) *Journal {
	if ours, err := journal.StderrIsJournalStream(); err != nil || !ours || !journal.Enabled() {
		return nil
	}
	return &Journal{Else: stderr, send: journal.Send}
}

// names are the names of fields in the journal that people search for.
var names = map[string]string{"task": "TASK_ID", "flow": "FLOW_ID", "verb": "VERB", "vm": "VM_ID"}

// Write takes an event as zerolog writes it, one object of JSON.
func (j *Journal) Write(line []byte) (int, error) {
	message, priority, fields, err := entry(line)
	if err == nil {
		err = j.send(message, priority, fields)
	}
	if err != nil {
		return j.Else.Write(line)
	}
	return len(line), nil
}

// entry makes an entry of the journal of an event. Its message is for people who see only that: it ends with all fields but those that
// say which task it is about.
func entry(line []byte) (message string, priority journal.Priority, fields map[string]string, err error) {
	priority = journal.PriInfo
	fields = map[string]string{"SYSLOG_IDENTIFIER": "vdsm-agentd"}
	var failure string
	var more []string
	d := json.NewDecoder(bytes.NewReader(line))
	if _, err := d.Token(); err != nil {
		return "", 0, nil, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return "", 0, nil, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return "", 0, nil, err
		}
		key, value := fmt.Sprint(name), text(raw)
		switch key {
		case zerolog.LevelFieldName:
			priority = priorityOf(value)
		case zerolog.MessageFieldName:
			message = value
		case zerolog.TimestampFieldName: // journald has its own
		case zerolog.ErrorFieldName:
			failure = ": " + value
			fields["ERROR"] = value
		default:
			if known, ok := names[key]; ok {
				fields[known] = value
				continue
			}
			fields["VDSM_AGENT_"+fieldName(key)] = value
			more = append(more, key+"="+value)
		}
	}
	message += failure
	if len(more) > 0 {
		message += " (" + strings.Join(more, ", ") + ")"
	}
	return message, priority, fields, nil
}

// text is a value without quotes.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

func priorityOf(level string) journal.Priority {
	switch level {
	case "trace", "debug":
		return journal.PriDebug
	case "warn":
		return journal.PriWarning
	case "error":
		return journal.PriErr
	case "fatal", "panic":
		return journal.PriCrit
	}
	return journal.PriInfo
}

// fieldName makes of a name one that journald takes.
func fieldName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}
