package store

import (
	"errors"
	"fmt"
	"math"

	"github.com/ncruces/go-sqlite3"
)

// A page of a walk is read in one go and held in memory; these are its bounds.
const (
	pageRecords = 512
	pageBytes   = 1 << 20
)

// walk are the statements by which records are read in the order of an index.
type walk struct {
	rows *sqlite3.Stmt // index and rows at once
	keys *sqlite3.Stmt // from the index alone, so that a damaged row does not end the walk
}

// walkRows returns the SQL of walk.rows for an index over (column, id) of the records for which which is true. The row
// comes from the table by its rowid, not from the index, so that an index that names the wrong one is seen.
func walkRows(column, index, which, behind, order string) string {
	return fmt.Sprintf(`SELECT t.id, t.version, t.verb, t.tag, t.flow, t.state, t.cleared, t.created, t.updated, t.body, i.%[1]s, i.id
		FROM task AS i INDEXED BY %[2]s LEFT JOIN task AS t ON t.rowid = i.rowid
		WHERE i.%[3]s AND (i.%[1]s, i.id) %[4]s (?, ?) AND i.id NOT IN (SELECT id FROM aside)
		ORDER BY i.%[1]s %[5]s, i.id %[5]s LIMIT ?`, column, index, which, behind, order)
}

// walkKeys returns the SQL of walk.keys in the same way.
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

// page reads the records behind at in one transaction, and moves at behind the last. Only if one of them is damaged it
// is slow.
func (r *reader) page(w walk, at *place, limit int) (page []Record, bad []SetAside, more bool, err error) {
	if err := r.begin.Exec(); err != nil {
		return nil, nil, false, err
	}
	defer func() { err = errors.Join(err, r.end.Exec()) }()
	from := *at
	page, more, err = w.soundPage(at, limit)
	if err != nil && (damaged(err) || errors.Is(err, errUnreadable)) {
		*at = from
		return r.damagedPage(w, at, limit)
	}
	return page, nil, more, err
}

// errNotThere: the index is damaged.
var errNotThere = fmt.Errorf("the index names a record that is not there: %w", errUnreadable)

// soundPage reads a page in which everything can be read.
func (w walk) soundPage(at *place, limit int) (page []Record, more bool, err error) {
	size := 0
	err = query(w.rows, func() error {
		if len(page) == limit || size >= pageBytes {
			return errPageFull
		}
		rec, err := record(w.rows)
		if err != nil {
			return err
		}
		if at.at, at.id = w.rows.ColumnInt64(10), rec.ID; string(w.rows.ColumnRawText(11)) != rec.ID {
			return errNotThere
		}
		if page == nil {
			page = make([]Record, 0, limit)
		}
		page, size = append(page, rec), size+len(rec.Body)
		return nil
	}, at.at, at.id, limit+1)
	if errors.Is(err, errPageFull) {
		return page, true, nil
	}
	return page, false, err
}

// damagedPage reads a page record by record.
func (r *reader) damagedPage(w walk, at *place, limit int) (page []Record, bad []SetAside, more bool, err error) {
	n, size := 0, 0
	err = query(w.keys, func() error {
		if n == limit || size >= pageBytes {
			return errPageFull
		}
		n++
		at.at, at.id = w.keys.ColumnInt64(0), w.keys.ColumnText(1)
		rec, err := Record{}, errNotThere
		if e := query(r.row, func() error { rec, err = record(r.row); return nil }, w.keys.ColumnInt64(2)); e != nil {
			err = e
		}
		if err == nil && rec.ID != at.id {
			err = errNotThere
		}
		switch {
		case err == nil:
			page, size = append(page, rec), size+len(rec.Body)
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
