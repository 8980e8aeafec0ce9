package sanlock

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/storageops/qemuimg/qemuimgtest"
)

const (
	sd  = "11111111-2222-4333-8444-555555555555"
	vol = "00000000-0000-4000-8000-00000000000a"
)

// area is one in a file that was just made, by a path as NFS has them.
func area(t *testing.T, resource string, offset int64) domain.Area {
	t.Helper()
	path := filepath.Join(t.TempDir(), "host:_export, a_b", "f")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o660); err != nil {
		t.Fatal(err)
	}
	return domain.Area{Path: path, Offset: offset, Lockspace: sd, Resource: resource, Sector: 512, Align: 1 << 20}
}

// leader is what sanlock itself reads in an area.
func leader(t *testing.T, a domain.Area) string {
	t.Helper()
	where := fmt.Sprintf("%s:%d", escape(a.Path), a.Offset)
	what := []string{"-r", a.Lockspace + ":" + a.Resource + ":" + where}
	if a.Resource == "" {
		what = []string{"-s", a.Lockspace + ":1:" + where}
	}
	out, err := exec.Command(program, append([]string{"direct", "read_leader"}, what...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestFormat(t *testing.T) {
	for name, a := range map[string]domain.Area{"lockspace": area(t, "", 0), "volume": area(t, vol, 0), "manager": area(t, "SDM", 1<<20)} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // what a former try left is no hindrance
				if err := Format(t.Context(), qemuimgtest.NewStarter(t), a); err != nil {
					t.Fatal(err)
				}
			}
			if fi, err := os.Stat(a.Path); err != nil || fi.Size() != a.Offset+int64(a.Align) {
				t.Errorf("the file is %v, %v", fi, err)
			}
			if text := leader(t, a); !strings.Contains(text, "space_name "+sd) || !strings.Contains(text, "resource_name "+a.Resource) {
				t.Errorf("sanlock reads %s", text)
			}
			if a.Resource == "" {
				return
			}
			l, err := Read(a)
			if err != nil || l.Owners == nil || len(l.Owners) != 0 || l.Version != 0 {
				t.Errorf("it reads %+v, %v", l, err)
			}
		})
	}
}

// TestOwner reads a lease as sanlock leaves it when host 7 takes it for the third time.
func TestOwner(t *testing.T) {
	a := area(t, vol, 0)
	if err := Format(t.Context(), qemuimgtest.NewStarter(t), a); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(a.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, n := range map[int64]uint64{32: 7, 40: 1, 48: 3, 152: 12345} { // owner_id, owner_generation, lver, timestamp
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, n), at); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(program, "direct", "read_leader", "-r", sd+":"+vol+":"+escape(a.Path)+":0").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "owner_id 7") || !strings.Contains(string(out), "lver 3") || !strings.Contains(string(out), "timestamp 12345") {
		t.Errorf("sanlock reads it otherwise: %v, %s", err, out) // but for the checksum
	}
	if l, err := Read(a); err != nil || len(l.Owners) != 1 || l.Owners[0] != 7 || l.Version != 3 {
		t.Errorf("it reads %+v, %v", l, err)
	}
	other := a
	other.Resource = sd
	if _, err := Read(other); err == nil {
		t.Error("it reads another's lease")
	}
}

func TestNothingToRead(t *testing.T) {
	a := area(t, vol, 0)
	if _, err := Read(a); err == nil {
		t.Error("an empty file has a lease")
	}
	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(a); err == nil {
		t.Error("no file has a lease")
	}
	if err := os.Symlink("/etc/passwd", a.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(a); err == nil {
		t.Error("a symbolic link was followed")
	}
	if err := Format(t.Context(), qemuimgtest.NewStarter(t), domain.Area{Path: "/no/such/file", Lockspace: sd, Resource: vol, Sector: 512, Align: 1 << 20}); code.Of(err) != code.VolumeCreation {
		t.Errorf("no file is formatted: %v", err)
	}
}
