package store

import (
	"math"
	"time"
)

// A step of Prune is one request to the writer. Its bounds are how long a change may have to wait for one: about 5 ms,
// and the sync that they share.
const (
	pruneRecords = 200
	pruneEntries = 2000    // of audit trails; a task's is removed whole
	pruneBytes   = 1 << 20 // of bodies
)

// Count is Store's. It reads an index only: 100,000 records take 10 ms.
func (s *SQLite) Count() (live int, err error) {
	err = s.read(func(r *reader) error {
		return query(r.count, func() error { live = r.count.ColumnInt(0); return nil })
	})
	return live, err
}

// History is Store's. It holds at most 1 MiB of bodies in memory, and one more.
func (s *SQLite) History(behind Place, limit int) (page []Record, err error) {
	at := place{behind.Updated.UnixMicro(), behind.ID}
	if behind == (Place{}) {
		at.at = math.MaxInt64
	}
	for more := limit > 0; more && len(page) == 0; { // a page may hold nothing that can be read
		page, more, err = s.page(&at, min(limit, pageRecords), func(r *reader) walk { return r.history })
		if err != nil {
			return nil, err
		}
	}
	return page, nil
}

// Prune is Store's. A record of the history that cannot be removed because the file is damaged is set aside.
func (s *SQLite) Prune(before time.Time, keep int) (removed int, err error) {
	last, err := s.lastToPrune(before, max(keep, 0))
	if err != nil {
		return 0, err
	}
	aside := "" // what was set aside last
	for at := (place{at: math.MinInt64}); ; {
		var p pruned
		var failure error
		err := s.send(256*s.prune, func(w *writer) error { p, failure = w.prune(at, last, s.prune); return failure })
		switch {
		case err == nil && p.end:
			return removed + p.records, nil
		case err == nil:
			removed, at = removed+p.records, p.at
		case damaged(failure) && p.bad != "" && p.bad != aside:
			aside = p.bad
			s.log.Error().Str("task", aside).Err(failure).Msg("a record of the history cannot be removed and is set aside")
			if err := s.SetAside(aside, failure.Error()); err != nil {
				return removed, err
			}
		default:
			return removed, err
		}
	}
}

// lastToPrune returns the place of the newest record that has to go; all before it go too.
func (s *SQLite) lastToPrune(before time.Time, keep int) (last place, err error) {
	last = place{at: before.UnixMicro()} // in front of those of that very moment: no id is empty
	err = s.read(func(r *reader) error {
		return query(r.oldest, func() error {
			if at := r.oldest.ColumnInt64(0); at >= last.at {
				last = place{at, r.oldest.ColumnText(1)}
			}
			return nil
		}, keep)
	})
	return last, err
}

// pruned is what a step of Prune did.
type pruned struct {
	records int
	at      place  // of the last that it looked at
	bad     string // its id
	end     bool   // there are no more
}

// prune makes one step: it removes the oldest records of the history behind at and up to last, at most limit.
func (w *writer) prune(at, last place, limit int) (p pruned, err error) {
	type old struct {
		place
		row int64
	}
	var batch []old
	err = query(w.old, func() error {
		batch = append(batch, old{place{w.old.ColumnInt64(0), w.old.ColumnText(1)}, w.old.ColumnInt64(2)})
		return nil
	}, at.at, at.id, last.at, last.id, limit)
	if err != nil {
		return p, err
	}
	entries, size := 0, 0
	for _, o := range batch {
		if entries >= pruneEntries || size >= pruneBytes {
			return p, nil
		}
		p.at, p.bad = o.place, o.id
		found := false // unless the index names a row that is not there
		err := query(w.drop, func() error {
			found, size = true, size+w.drop.ColumnInt(0)
			return nil
		}, o.row, o.id)
		if err != nil {
			return p, err
		}
		if !found {
			continue
		}
		if err := execute(w.dropLog, o.id); err != nil {
			return p, err
		}
		p.records, entries = p.records+1, entries+int(w.conn.Changes())
	}
	p.end = len(batch) < limit
	return p, nil
}
