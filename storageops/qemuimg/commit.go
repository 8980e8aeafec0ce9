package qemuimg

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// Commit writes what img holds itself into the layer right below it, which grows if it is smaller; img stays as it is, and nothing
// but that layer is written. limit is in bytes per second, 0 = none. report is called with how much of it is done, 0 to 1.
//
// When it returns nil all of it is written; whoever needs it on stable storage syncs it. One that dies has written any part: through
// img a guest reads the same as before, and repeating it completes it. Bitmaps of the layer may then be marked as not closed.
//
// qemu-img would open img for writing too, and mark its bitmaps while it is at work. So what it opens as the file of img is an empty
// overlay of that file, which lives in memory and dies with it.
func Commit(ctx context.Context, st Starter, img Image, limit int64, report func(part float64)) error {
	if err := img.Check(); err != nil {
		return err
	}
	if len(img.Backing) == 0 {
		return code.Errorf(code.IncorrectFormat, "%s has no layer below it to be committed to", img.Path)
	}
	what := img.Path + " cannot be merged into " + img.Backing[0].Path
	file, err := ReadInfo(ctx, st, Image{Path: img.Path, Format: Raw})
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("overlay", unix.MFD_CLOEXEC)
	if err != nil {
		return code.Errorf(code.General, "%s: there is no memory for it: %w", what, err)
	}
	overlay := os.NewFile(uintptr(fd), "overlay")
	defer overlay.Close()
	const path = "/proc/self/fd/3" // the first of Files
	spec := proc.Spec{Files: []*os.File{overlay}}
	if err := start(ctx, st, spec, "create", "-q", "-f", QCOW2, path, strconv.FormatInt(file.VirtualSize, 10)); err != nil {
		return Failure(code.Storage, err, what)
	}
	spec.Stdout = &Percent{Report: report}
	node := img.Node()
	node["file"] = Image{Path: path, Format: QCOW2, Backing: []Layer{{img.Path, Raw}}}.Node()
	args := []string{"commit", "-d", "-p", "-t", "writeback"}
	if limit > 0 {
		args = append(args, "-r", strconv.FormatInt(min(limit, MaxRate), 10))
	}
	return Failure(code.Storage, start(ctx, st, spec, append(args, node.Argument())...), what)
}

// Rebase writes another backing file into the header of img, a bare name, and its format. Nothing is opened and no data is moved:
// the new chain must read the same. It may be repeated. Neither is it synced.
func Rebase(ctx context.Context, st Starter, img Image, backing, format string) error {
	if err := img.Check(); err != nil {
		return err
	}
	if backing == "" || filepath.Base(backing) != backing || strings.Contains(backing, ":") {
		return code.Errorf(code.InvalidParameter, "the backing file %q of %s is not a bare volume name", backing, img.Path)
	}
	if format != Raw && format != QCOW2 {
		return code.Errorf(code.IncorrectFormat, "the format %q of the backing file %s is not known; give raw or qcow2", format, backing)
	}
	err := run(ctx, st, proc.Limits{}, nil, "rebase", "-q", "-u", "-b", backing, "-F", format, img.Alone().Node().Argument())
	return Failure(code.Storage, err, "the backing file of "+img.Path+" cannot be changed")
}
