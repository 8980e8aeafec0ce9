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
	Left        int64 // bytes of the memory that are still to go, as far as they are known
	Pass        int64 // over the memory, of a migration; the first is 1
}

// Job says what is done with the machine now. On the host that it comes to, libvirt does not tell: an error that Invalid knows.
func (c *Client) Job(ctx context.Context, vm string) (Job, error) {
	return ask(ctx, c, vm, "tell the job of", askWithin, func(l *connection, d libvirt.Domain) (Job, error) {
		kind, all, err := l.DomainGetJobStats(d, 0)
		p := parameters{}
		for _, one := range all {
			p[one.Field] = one.Value.I
		}
		return Job{
			Active: libvirt.DomainJobType(kind) == libvirt.DomainJobBounded || libvirt.DomainJobType(kind) == libvirt.DomainJobUnbounded,
			Done:   int64(p.number(libvirt.DomainJobDataProcessed)), Total: int64(p.number(libvirt.DomainJobDataTotal)),
			Left: int64(p.number(libvirt.DomainJobDataRemaining)), Pass: int64(p.number(libvirt.DomainJobMemoryIteration)),
		}, err
	})
}

// AbortJob asks libvirt to cancel it. There is none: an error that Invalid knows.
func (c *Client) AbortJob(ctx context.Context, vm string) error {
	return c.act(ctx, vm, "cancel the job of", actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainAbortJob(d) })
}
