package storageops_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/nbd"
	"vdsm-agent/tasks"
)

// external is an endpoint outside of all domains.
func external(url, format string, more ...any) map[string]any {
	out := map[string]any{"endpoint_type": "external", "url": url, "format": format}
	for i := 0; i < len(more); i += 2 {
		out[more[i].(string)] = more[i+1]
	}
	return out
}

func copying(source, dest map[string]any) map[string]any {
	return map[string]any{"job_id": taskID, "source": source, "destination": dest}
}

// outsideImage is a qcow2 image in a directory of its own.
func outsideImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outside, with = and spaces.qcow2")
	h := &host{t: t}
	h.run("qemu-img", "create", "-q", "-f", "qcow2", path, "12M")
	h.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 77 3M 2M", path)
	return path
}

// inwardCase fills a volume from a file outside.
func inwardCase(t *testing.T) jobCase {
	t.Helper()
	c := filling("fill a volume from outside", imgA, volTop, imgB, volOld)
	c.params = copying(external(outsideImage(t), "cow"), volume(imgB, volOld))
	return c
}

// outwardCase copies a chain to a file that it makes.
func outwardCase(t *testing.T) hostCase {
	t.Helper()
	dest := external(filepath.Join(t.TempDir(), "made"), "qcow2", "lease", map[string]any{"sd_id": sd, "lease_id": volNew})
	return hostCase{verbCase: verbCase{"copy a chain to the outside", "SDM.copy_data", copying(volume(imgA, volTop), dest), []string{"GEN=0"}, []string{"GEN=1"}, false}}
}

// served starts a server that shows a raw image, until the test ends, and returns its address. It stays when a client leaves.
func served(t *testing.T, path, export string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	pid := socket + ".pid"
	server := exec.Command("qemu-nbd", "--fork", "--pid-file="+pid, "--persistent", "--shared=1", "-f", "raw", "-x", export, "-k", socket, path)
	if out, err := server.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { (&host{t: t}).run("sh", "-c", `kill "$(cat "$0")"`, pid) })
	return nbd.Address{Socket: socket, Export: export}.String()
}

// TestExternalCopies copies between volumes, files and servers; what comes out reads as what went in.
func TestExternalCopies(t *testing.T) {
	h := newHostInMemory(t)
	dir := t.TempDir()
	full := func(name, size string) string { // an older one, all of it data
		path := filepath.Join(dir, name)
		h.run("qemu-img", "create", "-q", "-f", "raw", path, size)
		h.run("qemu-io", "-f", "raw", "-c", "write -q -P 9 0 "+size, path)
		return path
	}
	top := h.path("images", imgA, volTop)
	copies := func(name string, source, dest map[string]any, format, from, toFormat, to string) {
		t.Run(name, func(t *testing.T) {
			if v := h.next("SDM.copy_data", copying(source, dest)); v.State != tasks.Finished {
				t.Fatalf("ended %s/%d: %s", v.State, v.Code, v.Message)
			}
			h.run("qemu-img", "compare", "-f", format, "-F", toFormat, from, to)
		})
	}
	made, old, shown := filepath.Join(dir, "made"), full("old", "14M"), full("shown", "12M")
	server := served(t, shown, "an export")
	copies("a volume to a new file", volume(imgA, volTop), external(made, "cow"), "qcow2", top, "qcow2", made)
	copies("a volume to a new file, again", volume(imgA, volTop), external("file://"+made, "raw"), "qcow2", top, "raw", made)
	copies("a volume over an old file", volume(imgA, volTop), external(old, "raw", "create", false), "qcow2", top, "raw", old)
	copies("a volume to a server", volume(imgA, volTop), external(server, "raw"), "qcow2", top, "raw", shown)
	copies("a raw volume to a server", volume(imgA, volRaw), external(server, "raw"), "raw", h.path("images", imgA, volRaw), "raw", shown)
	copies("a server to a volume", external(server, "raw"), volume(imgB, volOld, "generation", 0), "raw", shown, "qcow2", h.path("images", imgB, volOld))
	copies("a server to a file", external(server, "raw"), external(filepath.Join(dir, "of the server"), "raw"), "raw", shown, "raw", filepath.Join(dir, "of the server"))
	copies("a file to a server", external(made, "raw"), external(server, "raw"), "raw", made, "raw", shown)
}

// TestExternalRefusals: nothing is opened that is not named as it has to be, and an image's header chooses no file.
func TestExternalRefusals(t *testing.T) {
	dir := t.TempDir()
	h := &host{t: t}
	image := outsideImage(t)
	link, backed, small := filepath.Join(dir, "link"), filepath.Join(dir, "backed"), filepath.Join(dir, "small")
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	h.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", backed, "12M")
	h.run("qemu-img", "create", "-q", "-f", "raw", small, "1M")
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	inward := func(e map[string]any) map[string]any { return copying(e, volume(imgB, volOld)) }
	outward := func(e map[string]any) map[string]any { return copying(volume(imgA, volTop), e) }
	const verb = "SDM.copy_data"
	refusals(t, []refusal{
		{"http", verb, inward(external("http://host/image", "raw")), code.InvalidParameter, "no other protocol"},
		{"a server on another host", verb, outward(external("nbd://host/export", "raw")), code.InvalidParameter, "nbd://host"},
		{"a server on another host, in the old way", verb, outward(external("nbd:host:10809", "raw")), code.InvalidParameter, "nbd:host"},
		{"a host besides the socket", verb, outward(external("nbd+unix://host/x?socket=/s", "raw")), code.InvalidParameter, "names a host"},
		{"json", verb, inward(external(`json:{"driver":"file","filename":"/etc/passwd"}`, "raw")), code.InvalidParameter, "json:"},
		{"a relative path", verb, inward(external("image", "raw")), code.InvalidParameter, "absolute"},
		{"a path with dots", verb, inward(external("/tmp/../etc/passwd", "raw")), code.InvalidParameter, "/tmp/../etc/passwd"},
		{"a symbolic link", verb, inward(external(link, "cow")), code.InvalidParameter, "neither a regular file"},
		{"a device", verb, outward(external("/dev/null", "raw")), code.InvalidParameter, "neither a regular file"},
		{"nothing there", verb, inward(external(filepath.Join(dir, "nothing"), "raw")), code.InvalidParameter, "not there"},
		{"nothing there to write", verb, outward(external(filepath.Join(dir, "nothing"), "raw", "create", false)), code.InvalidParameter, "not there"},
		{"no directory", verb, outward(external(filepath.Join(dir, "no", "directory"), "raw")), code.InvalidParameter, "directory"},
		{"no format", verb, inward(external(image, "")), code.InvalidParameter, "never guessed"},
		{"another format", verb, inward(external(image, "vmdk")), code.InvalidParameter, "vmdk"},
		{"not of that format", verb, inward(external(small, "cow")), code.ImageVerification, "small"},
		{"a backing file", verb, inward(external(backed, "cow")), code.ImageVerification, "/etc/passwd"},
		{"over one with a backing file", verb, outward(external(backed, "cow", "create", false)), code.ImageVerification, "/etc/passwd"},
		{"no room", verb, outward(external(small, "raw", "create", false)), code.InvalidParameter, "has room for 1048576"},
		{"cow behind a socket", verb, inward(external("nbd:unix:"+filepath.Join(dir, "socket"), "cow")), code.IncorrectFormat, "is raw"},
		{"a generation", verb, outward(external(small, "raw", "generation", 1)), code.Unsupported, "generation"},
		{"half a lease", verb, outward(external(small, "raw", "lease", map[string]any{"sd_id": sd})), code.InvalidParameter, "lease_id"},
		{"a lease of nowhere", verb, outward(external(small, "raw", "lease", map[string]any{"sd_id": imgA, "lease_id": volNew})), code.DomainDoesNotExist, imgA},
		{"itself", verb, copying(external(small, "raw"), external("file://"+small, "raw")), code.InvalidParameter, "itself"},
		{"no server", verb, inward(external("nbd:unix:"+filepath.Join(dir, "no socket"), "raw")), code.InvalidParameter, "not there"},
	})
}

// TestExternalInADomain: a volume is named as one, so that its lease and its generation count.
func TestExternalInADomain(t *testing.T) {
	h := newHostInMemory(t)
	refused(t, h, refusal{"", "SDM.copy_data", copying(volume(imgA, volTop), external(h.path("images", imgB, volOld), "cow")), code.InvalidParameter, "storage domain " + sd})
}
