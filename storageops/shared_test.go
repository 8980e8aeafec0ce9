package storageops_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"

	"github.com/rs/zerolog"
)

// sharedSD is the domain on a mounted file system.
const sharedSD = "22222222-2222-4333-8444-555555555555"

// ask answers a verb that is answered at once, as engines ask it.
func (h *host) ask(name string, params map[string]any, result any) error {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range h.storage.Calls() {
		if c.Name != name {
			continue
		}
		if c.Locks != nil {
			locks, err := c.Locks(raw)
			if err != nil {
				return err
			}
			release, err := h.Hold(name, locks)
			if err != nil {
				return err
			}
			defer release()
		}
		answer, err := c.Answer(h.t.Context(), raw)
		if err != nil || result == nil {
			return err
		}
		if raw, err = json.Marshal(answer); err != nil {
			h.t.Fatal(err)
		}
		if err := json.Unmarshal(raw, result); err != nil {
			h.t.Fatal(err)
		}
		return nil
	}
	h.t.Fatalf("there is no %s", name)
	return nil
}

// connect connects storage, or disconnects it, and returns the status.
func (h *host) connect(verb, kind string, connection map[string]any) int {
	h.t.Helper()
	var out []struct {
		ID     string `json:"id"`
		Status int    `json:"status"`
	}
	connection = with(connection, "iqn", "", "user", "", "password", "hunter2")
	if connection["id"] == nil {
		connection["id"] = imgA
	}
	if err := h.ask("StoragePool."+verb+"StorageServer", map[string]any{"storagepoolID": zeroUUID, "domainType": kind, "connectionParams": []any{connection}}, &out); err != nil {
		h.t.Fatal(err)
	}
	if len(out) != 1 || out[0].ID != connection["id"] {
		h.t.Fatalf("%s answers %v", verb, out)
	}
	return out[0].Status
}

// mkfs makes a file system in a file.
func (h *host) mkfs(command ...string) string {
	h.t.Helper()
	disk := filepath.Join(h.t.TempDir(), "a disk_of mine")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Truncate(disk, 512<<20); err != nil {
		h.t.Fatal(err)
	}
	h.run(command[0], append(command[1:], disk)...)
	return disk
}

// sharedHost has a POSIXFS domain on a file system of its own, connected and created as an engine does.
func sharedHost(t *testing.T, kind string) (h *host, connection map[string]any) {
	t.Helper()
	h = newHost(t)
	mkfs := map[string][]string{"ext4": {"mke2fs", "-q", "-t", "ext4"}, "xfs": {"mkfs.xfs", "-q"}}
	connection = map[string]any{"connection": h.mkfs(mkfs[kind]...), "vfs_type": kind, "mnt_options": "noatime"}
	if status := h.connect("connect", "POSIXFS", connection); status != 0 {
		t.Fatalf("connected with status %d", status)
	}
	t.Cleanup(func() {
		h.domains.Release(h.point(connection))
		_ = exec.Command("umount", h.point(connection)).Run() // it may be unmounted already
	})
	params := map[string]any{"storagedomainID": sharedSD, "domainType": 6, "typeArgs": connection["connection"], "name": "shared", "domainClass": 1, "version": "5"}
	if err := h.ask("StorageDomain.create", params, nil); err != nil {
		t.Fatal(err)
	}
	return h, connection
}

// point is where VDSM would mount it.
func (h *host) point(connection map[string]any) string {
	return filepath.Join(h.dir, "state", "mnt", strings.NewReplacer("_", "__", "/", "_").Replace(connection["connection"].(string)))
}

// TestSharedDomain goes through the life of a domain on a mounted file system, and of a template in it: leases wherever VDSM wants them.
func TestSharedDomain(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			h, connection := sharedHost(t, kind)
			top := filepath.Join(h.point(connection), sharedSD)
			for name, size := range map[string]int64{"dom_md/ids": 1 << 20, "dom_md/leases": 2 << 20, "dom_md/xleases": 1<<20 + 62*4096} {
				h.isFile(filepath.Join(top, name), size)
			}
			h.leader(sharedSD, "SDM", filepath.Join(top, "dom_md/leases"), 1<<20)
			var info domain.Info
			if err := h.ask("StorageDomain.getInfo", map[string]any{"storagedomainID": sharedSD}, &info); err != nil || info.Type != "POSIXFS" || info.RemotePath != connection["connection"] {
				t.Fatalf("its info is %+v, %v", info, err)
			}

			in := func(more ...any) map[string]any {
				return with(with(map[string]any{"volFormat": 5, "preallocate": 2, "diskType": "DATA"}, more...), "storagedomainID", sharedSD)
			}
			h.does("Volume.copy", with(map[string]any{"volumeID": volOld, "imageID": imgB, "dstSdUUID": sharedSD, "dstImgUUID": imgTmpl, "dstVolUUID": volTmpl,
				"volFormat": 4, "preallocate": 2, "volType": 6}))
			h.does("Volume.create", in("volumeID", volNew, "imageID", imgNew, "size", "12582912", "volFormat", 4, "srcImgUUID", imgTmpl, "srcVolUUID", volTmpl))
			image := filepath.Join(top, "images", imgNew)
			for _, vol := range []string{volTmpl, volNew} {
				h.isFile(filepath.Join(image, vol+".lease"), 1<<20)
				h.leader(sharedSD, vol, filepath.Join(image, vol+".lease"), 0)
			}
			own, err := os.Stat(filepath.Join(top, "images", imgTmpl, volTmpl+".lease"))
			if err != nil {
				t.Fatal(err)
			}
			if linked, err := os.Stat(filepath.Join(image, volTmpl+".lease")); err != nil || !os.SameFile(own, linked) {
				t.Errorf("the template's lease is not linked: %v", err)
			}
			var volume struct {
				Lease *struct {
					Path            string
					Offset, Version int64
					Owners          []int
				}
			}
			asked := map[string]any{"storagedomainID": sharedSD, "storagepoolID": zeroUUID, "imageID": imgNew, "volumeID": volNew}
			if err := h.ask("Volume.getInfo", asked, &volume); err != nil || volume.Lease == nil || volume.Lease.Path != filepath.Join(image, volNew+".lease") || volume.Lease.Owners == nil {
				t.Errorf("its info has the lease %+v, %v", volume.Lease, err)
			}

			deleted := h.does("Volume.delete", in("volumeID", volNew, "imageID", imgNew))
			if _, err := os.Lstat(filepath.Join(image, volNew+".lease")); !os.IsNotExist(err) {
				t.Errorf("the lease of a volume that is in the trash: %v", err)
			}
			h.must(h.Revert(t.Context(), deleted, "tester"))
			if v := h.end(deleted); v.State != tasks.Recovered {
				t.Fatalf("the revert ended %s: %s", v.State, v.Message)
			}
			h.isFile(filepath.Join(image, volNew+".lease"), 1<<20)
		})
	}
}

// does runs a task to its success, and returns its id.
func (h *host) does(verb string, params map[string]any) string {
	h.t.Helper()
	raw, err := json.Marshal(params)
	h.must(err)
	id, err := h.Submit(h.t.Context(), tasks.Submission{Verb: verb, Params: raw, Who: "tester"})
	h.must(err)
	if v := h.end(id); v.State != tasks.Finished {
		h.t.Fatalf("%s ended %s: %s", verb, v.State, v.Message)
	}
	return id
}

func (h *host) end(id string) tasks.View {
	h.t.Helper()
	_, err := h.Wait(h.t.Context(), id, tasks.Ended)
	h.must(err)
	v, err := h.Get(id)
	h.must(err)
	return v
}

// isFile wants a file of that size with the mode of sanlock's.
func (h *host) isFile(path string, size int64) {
	h.t.Helper()
	fi, err := os.Lstat(path)
	if err != nil || fi.Size() != size || fi.Mode() != 0o660 {
		h.t.Errorf("%s is not a file of %d bytes with mode 0660: %v, %v", path, size, fi, err)
	}
}

// leader lets sanlock itself read an area.
func (h *host) leader(lockspace, resource, path string, offset int) {
	h.t.Helper()
	out := h.run("sanlock", "direct", "read_leader", "-r", lockspace+":"+resource+":"+strings.ReplaceAll(path, ":", `\:`)+":"+strconv.Itoa(offset))
	for _, word := range []string{"magic 0x6152010", "space_name " + lockspace, "resource_name " + resource, "sector_size 512"} {
		if !strings.Contains(out, word) {
			h.t.Errorf("sanlock does not say %q of %s:\n%s", word, path, out)
		}
	}
}

// TestDisconnect: what is mounted is unmounted when the last connection that wants it is gone and nobody uses it, and not before.
func TestDisconnect(t *testing.T) {
	h, connection := sharedHost(t, "ext4")
	point := h.point(connection)
	mounted := func(want bool) {
		t.Helper()
		if is, err := domain.Mounted(point); err != nil || is != want {
			t.Errorf("mounted: %t, %v", is, err)
		}
	}
	other := with(connection, "id", imgB)
	for _, c := range []map[string]any{connection, other} { // what is mounted can be connected again
		if status := h.connect("connect", "POSIXFS", c); status != 0 {
			t.Fatalf("connected again with status %d", status)
		}
	}
	if status := h.connect("disconnect", "POSIXFS", other); status != 0 {
		t.Errorf("the second connection is disconnected with status %d", status)
	}
	mounted(true)

	foreign, err := os.Open(filepath.Join(point, sharedSD))
	h.must(err)
	if status := h.connect("disconnect", "POSIXFS", connection); status != int(code.Mount) {
		t.Errorf("what is in use is disconnected with status %d", status)
	}
	mounted(true)
	foreign.Close()
	params := with(map[string]any{"volFormat": 5, "preallocate": 2, "diskType": "DATA", "volumeID": volNew, "imageID": imgNew, "size": "4096"}, "storagedomainID", sharedSD)
	h.does("Volume.create", params) // it works on

	release, err := h.Hold("a task", []tasks.Lock{{Key: "domain/" + sharedSD}})
	h.must(err)
	raw := map[string]any{"domainType": "POSIXFS", "connectionParams": []any{with(connection, "id", imgA)}}
	if err := h.ask("StoragePool.disconnectStorageServer", raw, nil); code.Of(err) != code.ResourceTimeout {
		t.Errorf("with a task at work it answers %v", err)
	}
	release()
	for range 2 {
		if status := h.connect("disconnect", "POSIXFS", connection); status != 0 {
			t.Errorf("disconnected with status %d", status)
		}
		mounted(false)
	}
	if _, err := os.Lstat(point); !os.IsNotExist(err) {
		t.Errorf("the mount point stays: %v", err)
	}
	if err := h.ask("StorageDomain.getInfo", map[string]any{"storagedomainID": sharedSD}, nil); code.Of(err) != code.DomainDoesNotExist {
		t.Errorf("its domain answers %v", err)
	}
	if status := h.connect("connect", "POSIXFS", connection); status != 0 {
		t.Fatalf("connected anew with status %d", status)
	}
	if err := h.ask("StorageDomain.getInfo", map[string]any{"storagedomainID": sharedSD}, nil); err != nil {
		t.Errorf("its domain answers %v", err)
	}
}

// TestNoConnection: what cannot be connected gets the status that engines know, the call succeeds, nothing stays, and no log has a secret.
func TestNoConnection(t *testing.T) {
	h := newHost(t)
	var log bytes.Buffer
	h.storage = storageops.New(storageops.Options{Domains: h.domains, Workers: h.workers, TrashFor: time.Hour, Log: zerolog.New(&log)})
	empty := filepath.Join(t.TempDir(), "empty")
	h.must(os.WriteFile(empty, make([]byte, 1<<20), 0o600))
	before := h.run("ls", filepath.Join(h.dir, "state", "mnt"))
	for _, c := range []struct {
		name, kind string
		connection map[string]any
		status     code.Code
	}{
		{"no file system", "POSIXFS", map[string]any{"connection": empty, "vfs_type": "ext4"}, code.Mount},
		{"no device", "POSIXFS", map[string]any{"connection": "/no/such/device", "vfs_type": "ext4"}, code.Mount},
		{"no such type", "POSIXFS", map[string]any{"connection": empty, "vfs_type": "nosuchfs"}, code.Mount},
		{"a bad option with a secret", "POSIXFS", map[string]any{"connection": empty, "vfs_type": "ext4", "mnt_options": "password=geheim,colour=red"}, code.Mount},
		{"no type", "POSIXFS", map[string]any{"connection": empty}, code.MountType},
		{"a process of its own", "POSIXFS", map[string]any{"connection": empty, "vfs_type": "fuse.sshfs"}, code.MountType},
		{"two types", "POSIXFS", map[string]any{"connection": empty, "vfs_type": "ext4,xfs"}, code.MountType},
		{"an option in place of a path", "POSIXFS", map[string]any{"connection": "--bind", "vfs_type": "ext4"}, code.InvalidParameter},
		{"nothing", "POSIXFS", map[string]any{"connection": "", "vfs_type": "ext4"}, code.InvalidParameter},
		{"no version", "NFS", map[string]any{"connection": "127.0.0.1:/none", "protocol_version": "new"}, code.InvalidParameter},
		{"no server", "NFS", map[string]any{"connection": "127.0.0.1:/none", "mnt_options": "retry=0"}, code.Mount},
		{"no directory", "LOCALFS", map[string]any{"connection": "/no/such/directory"}, code.DomainAccess},
		{"other storage", "ISCSI", map[string]any{"connection": "host"}, code.StorageServerConnect},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status := h.connect("connect", c.kind, c.connection); status != int(c.status) {
				t.Errorf("status %d, want %d", status, c.status)
			}
		})
	}
	if after := h.run("ls", filepath.Join(h.dir, "state", "mnt")); after != before {
		t.Errorf("there is left: %s", after)
	}
	for _, secret := range []string{"hunter2", "geheim"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log says %q:\n%s", secret, log.String())
		}
	}
}

// TestMountThatHangs: a mount that does not come back is given up and killed, and holds up no other; when it is gone the same storage can
// be connected.
func TestMountThatHangs(t *testing.T) {
	h := newHost(t)
	h.storage = storageops.New(storageops.Options{Domains: h.domains, Workers: h.workers, TrashFor: time.Hour, MountWait: 200 * time.Millisecond, Log: zerolog.Nop()})
	disk := h.mkfs("mke2fs", "-q", "-t", "ext4")
	c := map[string]any{"connection": disk, "vfs_type": "ext4"}
	t.Cleanup(func() { _ = exec.Command("umount", h.point(c)).Run() })
	path, bin := os.Getenv("PATH"), t.TempDir()
	h.must(os.WriteFile(filepath.Join(bin, "mount"), []byte("#!/bin/sh\nexec sleep 10000\n"), 0o700))
	t.Setenv("PATH", bin+":"+path)
	if status := h.connect("connect", "POSIXFS", c); status != int(code.Mount) {
		t.Errorf("a mount that hangs has status %d", status)
	}
	t.Setenv("PATH", path)
	h.storage = storageops.New(storageops.Options{Domains: h.domains, Workers: h.workers, TrashFor: time.Hour, Log: zerolog.Nop()})
	if status := h.connect("connect", "POSIXFS", c); status != 0 {
		t.Errorf("then it is connected with status %d", status)
	}
}

// TestWithoutSanlock: nothing is begun that could not be finished.
func TestWithoutSanlock(t *testing.T) {
	h, connection := sharedHost(t, "ext4")
	t.Setenv("PATH", t.TempDir())
	params := with(map[string]any{"volFormat": 5, "preallocate": 2, "diskType": "DATA", "volumeID": volNew, "imageID": imgNew, "size": "4096"}, "storagedomainID", sharedSD)
	create := map[string]any{"storagedomainID": imgA, "domainType": 6, "typeArgs": connection["connection"], "name": "x", "domainClass": 1, "version": "5"}
	for name, err := range map[string]error{"Volume.create": h.submit("Volume.create", params), "StorageDomain.create": h.ask("StorageDomain.create", create, nil)} {
		if code.Of(err) != code.VolumeCreation || !strings.Contains(err.Error(), "package sanlock") {
			t.Errorf("%s answers %v", name, err)
		}
	}
}
