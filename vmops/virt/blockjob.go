package virt

import (
	"context"
	"encoding/xml"
	"errors"

	"github.com/digitalocean/go-libvirt"
)

// Jobs of QEMU on one disk of a machine, which is named as in its description ("vda"). There is one at a time on a disk; it goes on
// whatever becomes of the agent.

// Commit is one that writes what a file of a disk's chain holds into the one below it.
type Commit struct {
	Disk      string
	Base, Top string // their paths, as the machine's description has them
	Active    bool   // the top is what the machine writes to: the job gets ready, and then waits for Pivot or AbortBlockJob
	Limit     uint64 // MiB per second, 0 = none
}

// BeginCommit begins it. The names that chains have on disk stay as they are: relative.
func (c *Client) BeginCommit(ctx context.Context, vm string, job Commit) error {
	flags := libvirt.DomainBlockCommitRelative
	if job.Active {
		flags |= libvirt.DomainBlockCommitActive
	}
	return c.act(ctx, vm, "merge volumes of", actWithin, func(l *connection, d libvirt.Domain) error {
		return l.DomainBlockCommit(d, job.Disk, libvirt.OptString{job.Base}, libvirt.OptString{job.Top}, job.Limit, flags)
	})
}

// BeginMirror begins to copy what the machine writes to a disk into another file, which is there and has the chain below it that it is to
// have, as xml says. It gets ready, and then waits for Pivot or AbortBlockJob.
func (c *Client) BeginMirror(ctx context.Context, vm, disk, xml string) error {
	const flags = libvirt.DomainBlockCopyShallow | libvirt.DomainBlockCopyReuseExt | libvirt.DomainBlockCopyTransientJob
	return c.act(ctx, vm, "mirror a disk of", actWithin, func(l *connection, d libvirt.Domain) error {
		return l.DomainBlockCopy(d, disk, xml, nil, flags)
	})
}

// BlockJob says what is done with the disk now.
func (c *Client) BlockJob(ctx context.Context, vm, disk string) (Job, error) {
	return ask(ctx, c, vm, "tell the job of a disk of", askWithin, func(l *connection, d libvirt.Domain) (Job, error) {
		found, _, _, done, total, err := l.DomainGetBlockJobInfo(d, disk, 0)
		if err != nil || found == 0 {
			return Job{}, err
		}
		text, err := l.DomainGetXMLDesc(d, 0)
		if err != nil {
			return Job{}, err
		}
		ready, err := mirrorOf(text, disk)
		return Job{Active: true, Done: int64(done), Total: int64(total), Ready: ready == "yes", Pivoting: ready == "pivot"}, err
	})
}

// mirrorOf is what a machine's description says of the job that mirrors a disk: "yes" = it is ready, "pivot" and "abort" = it is ending so.
func mirrorOf(text, disk string) (string, error) {
	var domain struct {
		Disks []struct {
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
			Mirror struct {
				Ready string `xml:"ready,attr"`
			} `xml:"mirror"`
		} `xml:"devices>disk"`
	}
	if err := xml.Unmarshal([]byte(text), &domain); err != nil {
		return "", err
	}
	for _, d := range domain.Disks {
		if d.Target.Dev == disk {
			return d.Mirror.Ready, nil
		}
	}
	return "", nil
}

// AbortBlockJob asks QEMU to cancel it, and does not wait for that. There is none: an error that Invalid knows.
func (c *Client) AbortBlockJob(ctx context.Context, vm, disk string) error {
	return c.endBlockJob(ctx, vm, disk, "cancel the job on a disk of", libvirt.DomainBlockJobAbortAsync)
}

// Pivot has the machine go on on what the job of the disk has written, and ends the job. It returns when that is so. There is none, or it
// is not ready: an error that Invalid knows.
func (c *Client) Pivot(ctx context.Context, vm, disk string) error {
	return c.endBlockJob(ctx, vm, disk, "change over a disk of", libvirt.DomainBlockJobAbortPivot)
}

func (c *Client) endBlockJob(ctx context.Context, vm, disk, what string, how libvirt.DomainBlockJobAbortFlags) error {
	err := c.act(ctx, vm, what, actWithin, func(l *connection, d libvirt.Domain) error { return l.DomainBlockJobAbort(d, disk, how) })
	var said libvirt.Error
	if errors.As(err, &said) {
		switch libvirt.ErrorNumber(said.Code) {
		case libvirt.ErrInvalidArg, libvirt.ErrBlockCopyActive:
			return invalidError{err}
		}
	}
	return err
}
