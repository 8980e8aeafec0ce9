package systemd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/rs/zerolog"
)

// TestEntries: what a task's events are in the journal.
func TestEntries(t *testing.T) {
	var got string
	log := zerolog.New(&Journal{send: func(message string, priority journal.Priority, fields map[string]string) error {
		got = fmt.Sprintf("%d %s %v", priority, message, fields)
		return nil
	}}).With().Timestamp().Logger()
	of := log.With().Str("task", "1a2b").Str("verb", "Volume.copy").Str("flow", "f-1").Logger()
	for _, c := range []struct {
		log  func()
		want string
	}{
		{func() { of.Info().Str("from", "running").Str("state", "finished").Msg("task moved") },
			"6 task moved (from=running, state=finished) map[FLOW_ID:f-1 SYSLOG_IDENTIFIER:vdsm-agentd TASK_ID:1a2b VDSM_AGENT_FROM:running VDSM_AGENT_STATE:finished VERB:Volume.copy]"},
		{func() { log.Error().Err(errors.New("no space")).Msg("the store is not well") },
			"3 the store is not well: no space map[ERROR:no space SYSLOG_IDENTIFIER:vdsm-agentd]"},
		{func() { log.Warn().Str("vm", "v1").Strs("two words", []string{"a", "b"}).Int("n", 3).Msg("stuck") },
			`4 stuck (two words=["a","b"], n=3) map[SYSLOG_IDENTIFIER:vdsm-agentd VDSM_AGENT_N:3 VDSM_AGENT_TWO_WORDS:["a","b"] VM_ID:v1]`},
		{func() { log.Debug().Msg("") }, "7  map[SYSLOG_IDENTIFIER:vdsm-agentd]"},
	} {
		c.log()
		if got != c.want {
			t.Errorf("the entry is\n%s, want\n%s", got, c.want)
		}
	}
}

// TestNoJournal: what journald does not take is not lost, and without journald there is no Journal.
func TestNoJournal(t *testing.T) {
	var stderr strings.Builder
	j := &Journal{Else: &stderr, send: func(string, journal.Priority, map[string]string) error { return errors.New("gone") }}
	log := zerolog.New(j)
	log.Info().Msg("hello")
	if _, err := j.Write([]byte("no JSON\n")); err != nil {
		t.Error(err)
	}
	if got := stderr.String(); got != "{\"level\":\"info\",\"message\":\"hello\"}\nno JSON\n" {
		t.Errorf("standard error has %q", got)
	}
	t.Setenv("JOURNAL_STREAM", "")
	if NewJournal(&stderr) != nil {
		t.Error("there is a journal without journald")
	}
}
