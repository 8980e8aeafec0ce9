package agent

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vdsm-agent/agent/config"
	"vdsm-agent/internal/access"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
)

// tunes is what a reload has changed in the engine.
type tunes struct {
	tuning tasks.Tuning
	limits string
}

func (e *tunes) Tune(t tasks.Tuning) { e.tuning = t }

func (e *tunes) SetLimits(running map[tasks.Class]int, queue *int) error {
	e.limits = fmt.Sprint(running)
	if queue != nil {
		e.limits += fmt.Sprint(" queue ", *queue)
	}
	return nil
}

// find is the answer's row of a key.
func find(c wire.Configuration, name string) wire.Setting {
	for _, s := range c.Settings {
		if s.Section+"."+s.Key == name {
			return s
		}
	}
	return wire.Setting{}
}

// TestReload: a reload changes what it can, keeps what needs a restart, and says so; a file that is wrong changes nothing.
func TestReload(t *testing.T) {
	defer zerolog.SetGlobalLevel(zerolog.GlobalLevel())
	file := filepath.Join(t.TempDir(), "agent.conf")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say("[tasks]\ncopy_limit = 2\n")
	c, err := config.Load(config.Flags{File: file})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	s := newSettings(c, zerolog.New(&log))
	policy := s.current().Access
	engine := &tunes{}

	say("[tasks]\ncopy_limit = 3\nqueue_limit = 7\nfence_for = 5m\n[agent]\nlog_level = debug\n[storage]\ntrash_for = 1h\n[access]\ntls_operate = engine.*\n")
	s.reload(engine)
	if engine.limits != "map[copy:3] queue 7" || engine.tuning.FenceFor != 5*time.Minute || zerolog.GlobalLevel() != zerolog.DebugLevel {
		t.Errorf("the reload has changed %+v, the level to %s", engine, zerolog.GlobalLevel())
	}
	if role := policy.OfCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "other.example.com"}}); role != access.None {
		t.Errorf("the policy that transports ask still says %s", role)
	}
	if s.current().TrashFor != 24*time.Hour {
		t.Errorf("what needs a restart has changed to %s", s.current().TrashFor)
	}
	for _, want := range []string{"tasks.copy_limit", `"keys":["storage.trash_for"]`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, &log)
		}
	}
	answer := s.answer()
	if got := find(answer, "tasks.copy_limit"); got.Value != "3" || got.Origin != file+":2" || got.Restart || got.Pending != nil {
		t.Errorf("it answers %+v", got)
	}
	trash := find(answer, "storage.trash_for")
	if trash.Value != "24h" || trash.Origin != "default" || !trash.Restart || trash.Pending == nil || *trash.Pending != (wire.PendingSetting{Value: "1h", Origin: file + ":8"}) {
		t.Errorf("it answers %+v", trash)
	}

	before := *engine
	say("[tasks]\ncopy_limit = many\nqueue_limit = 9\n")
	s.reload(engine)
	answer = s.answer()
	if *engine != before || find(answer, "tasks.queue_limit").Value != "7" {
		t.Errorf("a file that is wrong has changed %+v", engine)
	}
	if len(answer.Refused) != 1 || !strings.Contains(answer.Refused[0], file+":2: copy_limit") {
		t.Errorf("it says that it refuses %v", answer.Refused)
	}

	say("[tasks]\ncopy_limit = 3\n[agent]\nlog_level = debug\n")
	s.reload(engine)
	answer = s.answer()
	if engine.limits != "map[] queue 500" || engine.tuning.FenceFor != time.Hour || len(answer.Refused) > 0 || find(answer, "storage.trash_for").Pending != nil {
		t.Errorf("back again: %+v, %+v", engine, answer)
	}
}
