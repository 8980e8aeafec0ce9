package store_test

import (
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
)

func TestSQLiteConforms(t *testing.T) {
	paths := map[store.Store]string{}
	open := func(t *testing.T, path string) store.Store {
		s, err := store.Open(path, store.Options{Log: zerolog.New(zerolog.NewTestWriter(t))})
		if err != nil {
			t.Fatal(err)
		}
		paths[s] = path
		return s
	}
	tasktest.StoreSuite(t,
		func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "tasks.db")) },
		func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, paths[s])
		})
}
