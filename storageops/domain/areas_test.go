package domain

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"
	"time"

	"vdsm-agent/internal/code"
)

// shared is a new domain of a type that hosts share, with the areas that it asked for.
func shared(t *testing.T, x *fixture, kind string) (*Domain, []Area) {
	t.Helper()
	var areas []Area
	s := spec(x.root)
	s.Type, s.Remote, s.BlockSize = kind, "host:/export", 512
	s.Format = func(a Area) error {
		areas = append(areas, a)
		return nil
	}
	d, err := x.reg.Create(s)
	x.must(err)
	return d, areas
}

func TestCreateShared(t *testing.T) {
	for _, kind := range []string{TypeNFS, TypePosixFS} {
		t.Run(kind, func(t *testing.T) {
			x := newFixture(t)
			d, areas := shared(t, x, kind)
			info, err := d.Info()
			x.must(err)
			if info.Type != kind || info.RemotePath != "host:/export" {
				t.Errorf("its info is %+v", info)
			}
			if len(areas) != 2 || areas[0].Resource != "" || areas[0].Offset != 0 || areas[1].Resource != "SDM" || areas[1].Offset != 1<<20 ||
				areas[0].Lockspace != d.ID() || areas[0].Sector != 512 || areas[0].Align != 1<<20 {
				t.Errorf("it asks for %+v", areas)
			}
			fi, err := os.Lstat(d.t.abs("dom_md/xleases"))
			if err != nil || fi.Mode() != 0o660 || fi.Size() != 1<<20+62*4096 {
				t.Errorf("its xleases is %v, %v", fi, err)
			}
		})
	}
}

// The index, byte by byte.
func TestLeaseIndex(t *testing.T) {
	b := leaseIndex(sdUUID, time.Unix(1700000000, 0))
	head := "12152016" + "00" + "30303031" + "00" + hex.EncodeToString([]byte(sdUUID)) + "000000000000000000000000" + "00" +
		hex.EncodeToString([]byte("1700000000")) + "00" + "2d"
	if got := hex.EncodeToString(b[:71]); got != head {
		t.Errorf("it begins\n%s, not\n%s", got, head)
	}
	if !bytes.Equal(b[71:511], make([]byte, 440)) || b[511] != '\n' {
		t.Errorf("its first block ends %q", b[71:512])
	}
	free := string(make([]byte, 49)) + "00000000000\x00--\n"
	for at := 512; at < len(b); at += 64 {
		if string(b[at:at+64]) != free {
			t.Fatalf("the record at %d is %q", at, b[at:at+64])
		}
	}
}

func TestMakeLease(t *testing.T) {
	x := newFixture(t)
	if a, err := x.d.MakeLease(imgA, volLeaf); a != nil || err != nil || x.exists(volumeFile(imgA, volLeaf)+leaseSuffix) {
		t.Errorf("on LOCALFS there is a lease: %v, %v", a, err)
	}
	d, _ := shared(t, x, TypeNFS)
	if _, err := d.MakeLease(imgA, volLeaf); code.Of(err) != code.ImageDoesNotExist {
		t.Errorf("without an image: %v", err)
	}
	_, err := d.CreateImageDir(imgA)
	x.must(err)
	for range 2 {
		a, err := d.MakeLease(imgA, volLeaf)
		x.must(err)
		fi, err := os.Lstat(a.Path)
		if err != nil || fi.Mode() != 0o660 || a.Resource != volLeaf || a.Lockspace != d.ID() {
			t.Errorf("it is %+v, %v, %v", a, fi, err)
		}
	}
	x.must(os.Link(d.t.abs(volumeFile(imgA, volLeaf)+leaseSuffix), d.t.abs("linked")))
	if _, err := d.MakeLease(imgA, volLeaf); code.Of(err) != code.VolumeAlreadyExists {
		t.Errorf("a template's lease: %v", err)
	}
}
