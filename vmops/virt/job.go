package virt

import (
	"context"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// saveWithin is longer than any save takes: a call that lasts is watched by its job, not by the clock.
const saveWithin = 24 * time.Hour

// Job is what libvirt does with a whole machine, or QEMU with one of its disks: one at a time.
type Job struct {
	Active      bool
	Done, Total int64 // bytes
	Ready       bool  // of one that does not end by itself: it may be ended now
	Pivoting    bool  // it ends, and its machine changes over
}

// Job says what is done with the machine now.
func (c *Client) Job(ctx context.Context, vm string) (Job, error) {
	return ask(ctx, c, vm, "tell the job of", askWithin, func(l *connection, d libvirt.Domain) (Job, error) {
		kind, _, _, total, done, _, _, _, _, _, _, _, err := l.DomainGetJobInfo(d)
		active := libvirt.DomainJobType(kind) == libvirt.DomainJobBounded || libvirt.DomainJobType(kind) == libvirt.DomainJobUnbounded
		return Job{Active: active, Done: int64(done), Total: int64(total)}, err
	})
}

// AbortJob asks libvirt to cancel it. There is none: an error that Invalid knows.
func (c *Client) AbortJob(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "cancel the job of", askWithin, func(l *connection, d libvirt.Domain) error { return l.DomainAbortJob(d) })
}
