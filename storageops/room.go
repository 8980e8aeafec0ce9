package storageops

import (
	"context"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
)

// Room is how much room a domain has, and what its trash takes.
type Room struct {
	domain.Stats
	Entries int   // tasks that have something in the trash
	Overdue int   // of them, those that nobody has emptied for overdueAfter after their time was over
	Err     error // nil = all of that is known
}

// overdueAfter is how late what is in the trash may be emptied before that is worth a word.
const overdueAfter = time.Hour

// Rooms looks at every domain as Health does, and measures its trash.
func (st *Storage) Rooms(ctx context.Context) map[string]Room {
	return st.rooms.all(ctx, st.registry.List(), st.room, func(id string) Room {
		return Room{Err: code.Errorf(code.DomainAccess, "storage domain %s does not answer", id)}
	})
}

func (st *Storage) room(id string) (r Room) {
	d, err := st.registry.GetReadOnly(id)
	if err != nil {
		return Room{Err: err}
	}
	if r.Stats, r.Err = d.Stats(); r.Err != nil {
		return r
	}
	entries, err := d.Trash().List()
	if err != nil {
		return Room{Err: err}
	}
	late := time.Now().Add(-overdueAfter)
	for _, e := range entries {
		r.Entries++
		if !e.Deadline.IsZero() && e.Deadline.Before(late) {
			r.Overdue++
		}
	}
	return r
}
