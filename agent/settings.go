package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"vdsm-agent/agent/config"
	"vdsm-agent/internal/access"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/tasks"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// settings are the configuration in force, and what became of the last try to change it.
type settings struct {
	log     zerolog.Logger
	hangups chan os.Signal

	mu      sync.Mutex // guards what follows
	now     config.Config
	files   []config.Entry // what the files and flags said when they were last accepted
	refused error          // why they are not accepted now
}

func newSettings(c config.Config, log zerolog.Logger) *settings {
	zerolog.SetGlobalLevel(c.LogLevel)
	s := &settings{log: log, hangups: make(chan os.Signal, 1), now: c, files: c.Entries()}
	signal.Notify(s.hangups, syscall.SIGHUP) // from now on, so that one during the start does not end the agent
	return s
}

func (s *settings) current() config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// tuned is what a reload changes in the engine.
type tuned interface {
	Tune(tasks.Tuning)
	SetLimits(running map[tasks.Class]int, queue *int) error
}

// reload puts in force what the files say now, as far as that needs no restart. When anything is wrong with them all stays as it was.
func (s *settings) reload(engine tuned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.now.Reload()
	s.refused = err
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			s.log.Error().Str("problem", strings.TrimSpace(line)).Msg("the configuration is refused; what was in force stays")
		}
		return
	}
	var changed, waiting []string
	inForce := s.now.Entries()
	for i, e := range next.Entries() {
		switch {
		case e.Live && e.Value != s.files[i].Value:
			changed = append(changed, e.Name())
		case !e.Live && e.Value != inForce[i].Value:
			waiting = append(waiting, e.Name())
		}
	}
	// What Host.setLimits has changed stays, unless the files have changed it too.
	limits := maps.Clone(next.Limits)
	maps.DeleteFunc(limits, func(c tasks.Class, n int) bool { return n == s.now.Limits[c] })
	var queue *int
	if next.QueueLimit != s.now.QueueLimit {
		queue = &next.QueueLimit
	}
	if err := engine.SetLimits(limits, queue); err != nil {
		s.log.Error().Err(err).Msg("the limits stay as they are")
	}
	engine.Tune(next.Tuning)
	zerolog.SetGlobalLevel(next.LogLevel)
	s.now.Access.Become(next.Access)
	policy := s.now.Access // which the transports ask
	s.now.Live, s.files = next.Live, next.Entries()
	s.now.Access = policy
	s.log.Info().Strs("changed", changed).Msg("the configuration was read again")
	if len(waiting) > 0 {
		s.log.Warn().Strs("keys", waiting).Msg("changed keys need a restart; until then their old values are in force")
	}
}

// settle is how long files must be left alone before they are read: editors write in several steps.
const settle = 200 * time.Millisecond

// follow calls reload after SIGHUP, and after a file of the configuration has changed, until ctx ends.
func (s *settings) follow(ctx context.Context, reload func()) {
	c := s.current()
	dirs := c.Dirs()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn().Err(err).Msg("changes of the configuration are not seen; SIGHUP makes the agent read it again")
		watcher, dirs = &fsnotify.Watcher{}, nil // whose channels are silent
	} else {
		defer func() { _ = watcher.Close() }() // nothing is asked of it any more
	}
	watch := func() {
		for _, dir := range dirs {
			if err := watcher.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				s.log.Warn().Err(err).Str("directory", dir).Msg("changes of the configuration are not seen here; SIGHUP makes the agent read it again")
			}
		}
	}
	watch()
	settled := time.NewTimer(0)
	settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hangups:
			reload()
		case <-settled.C:
			reload()
		case event := <-watcher.Events:
			switch {
			case slices.Contains(dirs, event.Name): // conf.d has come, with what is in it
				watch()
				settled.Reset(settle)
			case filepath.Ext(event.Name) == ".conf" && !event.Op.Has(fsnotify.Chmod):
				settled.Reset(settle)
			}
		case err := <-watcher.Errors:
			s.log.Warn().Err(err).Msg("a change of the configuration may have been missed; SIGHUP makes the agent read it again")
		}
	}
}

// calls are the verbs about the configuration.
func (s *settings) calls() []tasks.Call {
	return []tasks.Call{{
		Name: "Host.getConfiguration", Role: access.Admin, Ours: true, Result: wire.Configuration{},
		Doc:    "Answer every key of the configuration, its value in force and where that comes from.",
		Answer: func(context.Context, json.RawMessage) (any, error) { return s.answer(), nil },
	}}
}

func (s *settings) answer() wire.Configuration {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := wire.Configuration{Settings: []wire.Setting{}}
	if s.refused != nil {
		for line := range strings.Lines(s.refused.Error()) {
			out.Refused = append(out.Refused, strings.TrimSpace(line))
		}
	}
	for i, e := range s.now.Entries() {
		read := s.files[i]
		one := wire.Setting{Section: e.Section, Key: e.Key, Value: e.Value, Origin: e.Origin, Restart: !e.Live}
		switch {
		case e.Live:
			one.Value, one.Origin = read.Value, read.Origin
		case e.Value == read.Value:
			one.Origin = read.Origin
		default:
			one.Pending = &wire.PendingSetting{Value: read.Value, Origin: read.Origin}
		}
		out.Settings = append(out.Settings, one)
	}
	return out
}
