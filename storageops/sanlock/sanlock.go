// Package sanlock writes and reads sanlock's areas on storage as its own program does, without its daemon: what VDSM needs to be there
// before it can use a domain or a volume. It takes no leases.
//
// It may be imported by storageops.
package sanlock

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg"
)

// program is what formats areas; looked up in PATH.
const program = "sanlock"

// Installed refuses what needs sanlock on a host without it (205).
func Installed() error {
	if _, err := exec.LookPath(program); err != nil {
		return code.Errorf(code.VolumeCreation, "storage that hosts share needs the program sanlock, which this host has not; install the package sanlock")
	}
	return nil
}

// Format writes an area, as one that nobody holds, into a file that is there; what was in the area before is lost. It bypasses the
// page cache; the file's own length is not on stable storage when it returns. An area that is formatted half can be formatted again.
func Format(ctx context.Context, st qemuimg.Starter, a domain.Area) error {
	if err := Installed(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	where := fmt.Sprintf("%s:%d", escape(a.Path), a.Offset)
	what := []string{"-s", a.Lockspace + ":0:" + where}
	if a.Resource != "" {
		what = []string{"-r", a.Lockspace + ":" + a.Resource + ":" + where}
	}
	argv := append([]string{program, "direct", "init", "-Z", fmt.Sprint(a.Sector), "-A", fmt.Sprintf("%dM", a.Align>>20)}, what...)
	w, err := st.Start(ctx, proc.Spec{Argv: argv, IdleIO: true})
	if err == nil {
		err = w.Wait()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return qemuimg.Failure(code.VolumeCreation, err, "the sanlock area "+a.Path+" cannot be written")
}

// escape is how sanlock takes a path that holds what separates the parts of its arguments.
func escape(path string) string { return strings.ReplaceAll(path, ":", `\:`) }

// Lease is what an area says of its lease.
type Lease struct {
	Owners  []int // the number of the host that has it, or had it when it died; none = it is free
	Version int64 // counts how often it was taken
}

// Where sanlock has what in the first sector of an area; all numbers are little endian.
const (
	magic       = 0x06152010
	atOwner     = 32
	atVersion   = 48
	atLockspace = 56
	atResource  = 104
	atTimestamp = 152
	nameSize    = 48
)

// Read reads the lease of a resource. What another host has written a moment ago may not show yet. An area that is not there, or
// is none of this resource, is an error.
func Read(a domain.Area) (Lease, error) {
	f, err := os.OpenFile(a.Path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Lease{}, err
	}
	defer f.Close()
	b := make([]byte, atTimestamp+8)
	if _, err := io.ReadFull(io.NewSectionReader(f, a.Offset, int64(len(b))), b); err != nil {
		return Lease{}, fmt.Errorf("%s is no sanlock area: %w", a.Path, err)
	}
	name := func(at int) string { return string(bytes.TrimRight(b[at:at+nameSize], "\x00")) }
	if binary.LittleEndian.Uint32(b) != magic || name(atLockspace) != a.Lockspace || name(atResource) != a.Resource {
		return Lease{}, fmt.Errorf("%s is no sanlock area of %s:%s", a.Path, a.Lockspace, a.Resource)
	}
	l := Lease{Owners: []int{}, Version: int64(binary.LittleEndian.Uint64(b[atVersion:]))}
	if binary.LittleEndian.Uint64(b[atTimestamp:]) != 0 {
		l.Owners = append(l.Owners, int(binary.LittleEndian.Uint64(b[atOwner:])))
	}
	return l, nil
}
