package store

import (
	"errors"
	"fmt"
	"math"

	"github.com/ncruces/go-sqlite3"
)

// A page of a walk is read in one go and held in memory; these are its bounds.
const (
	pageRecords = 128
	pageBytes   = 1 << 20
)

// walk are the statements by which records are read in the order of an index.
type walk struct {
	keys *sqlite3.Stmt // from the index alone, so that a damaged row does not end the walk
}

// walkKeys returns the SQL of walk.keys for an index over (column, id) of the records for which which is true.
func walkKeys(column, index, which, behind, order string) string {
	return fmt.Sprintf(`SELECT %[1]s, id, rowid FROM task INDEXED BY %[2]s
		WHERE %[3]s AND (%[1]s, id) %[4]s (?, ?) AND id NOT IN (SELECT id FROM aside)
		ORDER BY %[1]s %[5]s, id %[5]s LIMIT ?`, column, index, which, behind, order)
}

// place is where a walk is: at the record with this time, in microseconds, and this id.
type place struct {
	at int64
	id string
}

// Live is Store's. Oldest first means by Created, then by ID. It reads pages and holds nothing while it calls each,
// which may therefore use the store. A record that is live and keeps its Created all the while is seen exactly once;
// one that changes meanwhile is seen as it was or as it is, one that comes or goes meanwhile is seen or not.
func (s *SQLite) Live(each func(Record) error) error {
	at := place{at: math.MinInt64}
	for more := true; more; {
		var page []Record
		var err error
		if page, more, err = s.page(&at, pageRecords, func(r *reader) walk { return r.live }); err != nil {
			return err
		}
		for _, rec := range page {
			if err := each(rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// page reads up to limit records behind at, moves at behind the last, and sets aside what it cannot read.
func (s *SQLite) page(at *place, limit int, of func(*reader) walk) (page []Record, more bool, err error) {
	var bad []SetAside
	err = s.read(func(r *reader) (err error) {
		page, bad, more, err = r.page(of(r), at, limit)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	for _, b := range bad {
		s.log.Error().Str("task", b.ID).Str("reason", b.Reason).Msg("a record of the store cannot be read and is set aside")
		if err := s.SetAside(b.ID, b.Reason); err != nil {
			s.log.Error().Str("task", b.ID).Err(err).Msg("setting a record aside could not be recorded; the next start tries again")
		}
	}
	return page, more, nil
}

// errPageFull ends the statement of a page.
var errPageFull = errors.New("the page is full")

// page reads the records behind at in one transaction, and moves at behind the last.
func (r *reader) page(w walk, at *place, limit int) (page []Record, bad []SetAside, more bool, err error) {
	if err := r.begin.Exec(); err != nil {
		return nil, nil, false, err
	}
	defer func() { err = errors.Join(err, r.end.Exec()) }()
	n, size := 0, 0
	err = query(w.keys, func() error {
		if n == limit || size >= pageBytes {
			return errPageFull
		}
		n++
		at.at, at.id = w.keys.ColumnInt64(0), w.keys.ColumnText(1)
		var rec Record
		err := query(r.row, func() (err error) { rec, err = record(r.row); return err }, w.keys.ColumnInt64(2))
		switch {
		case err == nil && rec.ID == at.id:
			page, size = append(page, rec), size+len(rec.Body)
		case err == nil:
			bad = append(bad, SetAside{ID: at.id, Reason: "the index names a record that is not there"})
		case damaged(err) || errors.Is(err, errUnreadable):
			bad = append(bad, SetAside{ID: at.id, Reason: err.Error()})
		default:
			return err
		}
		return nil
	}, at.at, at.id, limit+1)
	if errors.Is(err, errPageFull) {
		return page, bad, true, nil
	}
	return page, bad, false, err
}
