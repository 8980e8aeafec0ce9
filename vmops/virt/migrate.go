package virt

import (
	"context"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// migrateWithin is longer than any migration takes; see saveWithin.
const migrateWithin = 7 * 24 * time.Hour

// Migration is how a machine goes to another host.
type Migration struct {
	Libvirt string // the URI by which this host's libvirt reaches the other one's
	State   string // the URI by which its QEMU sends the machine's state
	// Bandwidth is in MiB per second, and 0 = as much as there is.
	Bandwidth uint64
	Parallel  int32 // connections for the state; 0 = one
	Unsafe    bool  // whatever libvirt thinks of the storage that both hosts share

	AbortOnError, AutoConverge, Compressed, Encrypted, Tunneled, ZeroCopy bool

	PostCopy bool // it may be entered
	Resume   bool // the post-copy that broke
}

func (m Migration) flags() libvirt.DomainMigrateFlags {
	flags := libvirt.MigrateLive | libvirt.MigratePeer2peer
	for flag, on := range map[libvirt.DomainMigrateFlags]bool{
		libvirt.MigrateUnsafe: m.Unsafe, libvirt.MigrateAbortOnError: m.AbortOnError, libvirt.MigrateAutoConverge: m.AutoConverge,
		libvirt.MigrateCompressed: m.Compressed, libvirt.MigrateTLS: m.Encrypted, libvirt.MigrateTunnelled: m.Tunneled, libvirt.MigrateZerocopy: m.ZeroCopy,
		libvirt.MigrateParallel: m.Parallel > 0, libvirt.MigratePostcopy: m.PostCopy, libvirt.MigratePostcopyResume: m.Resume,
	} {
		if on {
			flags |= flag
		}
	}
	return flags
}

func (m Migration) params() (out []libvirt.TypedParam) {
	if !m.Tunneled {
		out = append(out, libvirt.TypedParam{Field: libvirt.MigrateParamURI, Value: *libvirt.NewTypedParamValueString(m.State)})
	}
	if m.Bandwidth > 0 {
		out = append(out, libvirt.TypedParam{Field: libvirt.MigrateParamBandwidth, Value: *libvirt.NewTypedParamValueUllong(m.Bandwidth)})
	}
	if m.Parallel > 0 {
		out = append(out, libvirt.TypedParam{Field: libvirt.MigrateParamParallelConnections, Value: *libvirt.NewTypedParamValueInt(m.Parallel)})
	}
	return out
}

// Migrate has libvirt send the machine to another host's, by themselves. It returns at once; its end comes by the channel, and goes on in
// libvirt whatever becomes of the agent. While it runs Job shows it, and AbortJob cancels it. When it has succeeded the machine is gone here.
func (c *Client) Migrate(ctx context.Context, vm string, m Migration) <-chan error {
	done := make(chan error, 1)
	c.running.Go(func() {
		done <- c.act(ctx, vm, "migrate", migrateWithin, func(l *connection, d libvirt.Domain) error {
			_, err := l.DomainMigratePerform3Params(d, libvirt.OptString{m.Libvirt}, m.params(), nil, m.flags())
			return err
		})
	})
	return done
}

// SetBandwidth bounds what a migration of the machine sends, in MiB per second.
func (c *Client) SetBandwidth(ctx context.Context, vm string, mib uint64) error {
	return c.act(ctx, vm, "bound the migration of", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainMigrateSetMaxSpeed(d, mib, 0) })
}

// SetDowntime says how long its guest may stand still at the switch-over.
func (c *Client) SetDowntime(ctx context.Context, vm string, most time.Duration) error {
	return c.act(ctx, vm, "bound the downtime of", actWithin, func(l *connection, d libvirt.Domain) error {
		return l.DomainMigrateSetMaxDowntime(d, uint64(most.Milliseconds()), 0)
	})
}

// PostCopy has the machine go on on the other host, with the rest of its memory to follow. It has already: an error that Invalid knows.
func (c *Client) PostCopy(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "enter the post-copy of", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainMigrateStartPostCopy(d, 0) })
}

// Broken says whether the machine's post-copy broke: part of its memory is on each of two hosts.
func (s State) Broken() bool {
	return s.Phase == Paused && libvirt.DomainPausedReason(s.Reason) == libvirt.DomainPausedPostcopyFailed ||
		s.Phase == Running && libvirt.DomainRunningReason(s.Reason) == libvirt.DomainRunningPostcopyFailed
}

// Coming is the state of a machine that waits for its memory from another host.
var Coming = State{Paused, int32(libvirt.DomainPausedMigration)}
