package storageops

import (
	"context"

	"vdsm-agent/storageops/copy"
	"vdsm-agent/tasks"
)

// wipe overwrites the files, which are in these domains, one after the other; it goes on where it was.
func (st *Storage) wipe(ctx context.Context, s *tasks.Scope, files []string, domains ...string) error {
	return inOrder(s, len(files), nil, func(w work, i int, last *copy.FillState) error {
		l, done := st.moving(w, domains...)
		defer done()
		return st.images.Zero(ctx, l, files[i], last)
	})
}
