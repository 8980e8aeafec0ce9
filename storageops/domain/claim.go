package domain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/lease"
)

// reserveSize is enough for some dozens of manifests and volume metadata.
const reserveSize = 1 << 20

// holder is what a claim's file says: who took the claim last. Only the lock is the claim; the file is for people.
type holder struct {
	Agent string    `json:"agent"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// takeClaim makes the domain ours to change, if it is not already. The claim is VDSM's own on LOCALFS: an exclusive
// flock of dom_md/ids. On other domains, where VDSM has sanlock's, the same keeps out other agents only, and those of other hosts
// as far as the file system's locks reach. It is never unlocked, only closed: a worker that was handed it (DupClaim) keeps it if
// we die.
//
//   - Held by somebody else: 651, naming who took it last, as far as known.
//   - The file system is read-only: 379. A version other than Version: 394. A type whose claim is another: 372.
func (d *Domain) takeClaim() error {
	d.claimMu.Lock()
	defer d.claimMu.Unlock()
	if err := d.Writable(); err != nil {
		return err
	}
	if d.claim != nil {
		held, err := d.claim.Stat()
		if err != nil {
			return osError(err, "look at", d.t.abs(idsFile))
		}
		if now, err := d.t.lstat(idsFile); err != nil || os.SameFile(held, now) {
			return err
		}
		d.log.Warn().Msg("dom_md/ids was replaced; claiming the domain again")
		d.claim.Close()
		d.claim = nil
	}
	flag, err := d.claimable()
	if err != nil {
		return err
	}
	f, err := d.t.open(idsFile, flag)
	if notExist(err) {
		return code.Errorf(code.DomainLayout, "domain %s has no file %s to claim it by; it is damaged", d.id, d.t.abs(idsFile))
	}
	if err != nil {
		return err
	}
	if err = d.lock(f); err == nil {
		err = d.settle()
	}
	if err != nil {
		f.Close()
		return err
	}
	d.claim = f
	d.log.Info().Msg("claimed the domain")
	return nil
}

// claimable refuses a domain that cannot be claimed, and says how the file of the claim is opened.
func (d *Domain) claimable() (flag int, err error) {
	m, err := d.Meta()
	if err != nil {
		return 0, err
	}
	if m.Version != Version {
		return 0, code.Errorf(code.UnsupportedVersion, "domain %s has version %d; it can be read, but only version %d can be changed",
			d.id, m.Version, Version)
	}
	if !slices.Contains(Types, m.Type) {
		return 0, code.Errorf(code.DomainType, "domain %s has type %s; it can be read, but only domains of type %s can be claimed for changes",
			d.id, m.Type, strings.Join(Types, ", "))
	}
	if m.Type == TypeLocalFS {
		return os.O_RDONLY, nil // its file system can be made read-only under us
	}
	return os.O_RDWR, nil // NFS makes of an exclusive flock a lock for writing
}

func (d *Domain) lock(f *os.File) error {
	err := tryLock(f)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return code.Errorf(code.AcquireLock, "domain %s in %s is claimed by somebody else (%s); stop that one first",
			d.id, d.rootPath, d.lastHolder())
	}
	return osError(err, "lock", d.t.abs(idsFile))
}

func (d *Domain) lastHolder() string {
	var h holder
	data, err := d.t.read(claimFile, 4096)
	if err != nil || json.Unmarshal(data, &h) != nil {
		return "no agent has left its name: probably VDSM"
	}
	return fmt.Sprintf("the last agent to claim it was %s, process %d, at %s; if that is gone, VDSM",
		h.Agent, h.PID, h.Since.Format(time.RFC3339))
}

// settle readies our directory in a domain that was just claimed: what a former holder left half written goes.
func (d *Domain) settle() error {
	for _, dir := range []string{agentDir, tmpDir, trashDir, locksDir} {
		if _, err := d.t.ensureDir(dir); err != nil {
			return err
		}
	}
	if err := d.t.sync(".", agentDir); err != nil {
		return err
	}
	left, err := d.t.list(tmpDir)
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := d.t.removeAll(path.Join(tmpDir, name)); err != nil {
			return err
		}
	}
	if d.locks == nil {
		if d.locks, err = d.t.root.OpenRoot(locksDir); err != nil {
			return osError(err, "open", d.t.abs(locksDir))
		}
	}
	if err := lease.Sweep(d.locks); err != nil { // a lock is as good in an old file
		d.log.Warn().Err(err).Msg("files of old volume leases could not be removed")
	}
	data, err := json.Marshal(holder{Agent: d.agent, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	err = d.t.replace(claimFile, append(data, '\n'))
	if err == nil {
		err = d.keepReserve()
	}
	if code.Of(err) == code.NoSpaceLeftOnDomain {
		// A full domain must be claimable all the same, or its trash could not be emptied.
		d.log.Warn().Err(err).Msg("claimed a full domain")
		return nil
	}
	return err
}

// keepReserve makes the reserve anew if it was used up. See tree.
func (d *Domain) keepReserve() error {
	if fi, err := d.t.regular(reserveFile); err != nil || fi != nil && allocated(fi) >= reserveSize {
		return err
	}
	if err := d.t.remove(reserveFile); err != nil {
		return err
	}
	if err := d.t.create(reserveFile, nil, 0, metaMode); err != nil {
		return err
	}
	f, err := d.t.open(reserveFile, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	err = d.t.change("allocate", reserveFile, func() error { return unix.Fallocate(int(f.Fd()), 0, 0, reserveSize) })
	if err == nil {
		err = d.t.change("sync", reserveFile, f.Sync)
	}
	if err != nil {
		return errors.Join(err, d.t.remove(reserveFile))
	}
	return d.t.sync(agentDir)
}

// changeable refuses to change a domain that was opened for reading only.
func (d *Domain) changeable() error {
	d.claimMu.Lock()
	defer d.claimMu.Unlock()
	if d.claim == nil {
		return code.Errorf(code.AcquireLock, "domain %s is not claimed by this agent and cannot be changed", d.id)
	}
	return nil
}

// Lease takes the lock on a volume that whoever writes it holds; see package lease. It needs nothing of the volume to be there.
//
//   - Somebody else has it: a *lease.BusyError.
//   - The domain is not claimed: 651.
func (d *Domain) Lease(vol, task string) (*lease.Lease, error) {
	if err := checkUUIDs("volume", vol); err != nil {
		return nil, err
	}
	if err := d.changeable(); err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "this host"
	}
	l, err := lease.Take(d.locks, vol, lease.Holder{
		Agent: d.agent, Host: host, Task: task, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second),
	})
	if _, busy := errors.AsType[*lease.BusyError](err); busy {
		return nil, err
	}
	return l, osError(err, "lock", d.t.abs(path.Join(locksDir, vol)))
}

// DupClaim returns the claim's open file once more, for a worker that changes the domain: while it has it open, nobody
// else can claim the domain, even if the agent dies. The caller closes it. 651 if the domain is not claimed.
func (d *Domain) DupClaim() (*os.File, error) {
	d.claimMu.Lock()
	defer d.claimMu.Unlock()
	if d.claim == nil {
		return nil, code.Errorf(code.AcquireLock, "domain %s is not claimed by this agent", d.id)
	}
	fd, err := unix.FcntlInt(d.claim.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, osError(err, "duplicate", d.t.abs(idsFile))
	}
	return os.NewFile(uintptr(fd), d.t.abs(idsFile)), nil
}

func (d *Domain) close() {
	d.claimMu.Lock()
	defer d.claimMu.Unlock()
	if d.claim != nil {
		d.claim.Close() // read-only: there is nothing to lose
		d.claim = nil
	}
	if d.locks != nil {
		d.locks.Close()
	}
	d.t.root.Close()
}

// tryLock takes the exclusive flock without waiting; EWOULDBLOCK if somebody has it.
func tryLock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}
