package domain

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"vdsm-agent/internal/code"
)

const exampleDomain = `ALIGNMENT=1048576
BLOCK_SIZE=512
CLASS=Data
DESCRIPTION=local
IOOPTIMEOUTSEC=10
LEASERETRIES=3
LEASETIMESEC=60
LOCKPOLICY=
LOCKRENEWALINTERVALSEC=5
POOL_UUID=
REMOTE_PATH=/srv/local
ROLE=Regular
SDUUID=11111111-2222-4333-8444-555555555555
TYPE=LOCALFS
VERSION=5
_SHA_CKSUM=615aabefe565738ffb2f6b4d877bda2a44beb24f
`

const exampleVolume = `CAP=1073741824
CTIME=1700000000
DESCRIPTION={"DiskAlias":"d1","DiskDescription":""}
DISKTYPE=DATA
DOMAIN=11111111-2222-4333-8444-555555555555
FORMAT=COW
GEN=0
IMAGE=aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee
LEGALITY=LEGAL
PUUID=00000000-0000-0000-0000-000000000000
SEQ=1
TYPE=SPARSE
VOLTYPE=LEAF
EOF
`

func TestExamplesRoundTrip(t *testing.T) {
	v, err := ParseVolumeMeta([]byte(exampleVolume))
	if err != nil {
		t.Fatal(err)
	}
	if want := testMeta(imgA, BlankUUID, Leaf); !reflect.DeepEqual(v, want) {
		t.Fatalf("got %+v, want %+v", v, want)
	}
	data, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "volume metadata", string(data), exampleVolume)
	if len(data) != 295 {
		t.Fatalf("%d bytes, want 295", len(data))
	}

	d, err := ParseDomainMeta([]byte(exampleDomain))
	if err != nil {
		t.Fatal(err)
	}
	if d.UUID != sdUUID || d.Name != "local" || d.Type != "LOCALFS" || d.Version != 5 || d.BlockSize != 512 || d.Pools != nil {
		t.Fatalf("got %+v", d)
	}
	data, err = d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "domain metadata", string(data), exampleDomain)
}

func TestParseVolumeMeta(t *testing.T) {
	line := func(old, new string) string { return strings.Replace(exampleVolume, old, new, 1) }
	for _, c := range []struct {
		name, text string
		want       func(*VolumeMeta) // nil = 207
		says       string
	}{
		{name: "padded with NULs", text: exampleVolume + strings.Repeat("\x00", 217), want: func(*VolumeMeta) {}},
		{name: "no EOF", text: line("EOF\n", ""), want: func(*VolumeMeta) {}},
		{name: "lines after EOF", text: exampleVolume + "CAP=7\n", want: func(*VolumeMeta) {}},
		{name: "blanks", text: line("CAP=1073741824", "  CAP =\t1073741824 \r"), want: func(*VolumeMeta) {}},
		{name: "a line without =", text: line("SEQ=1", "SEQ=1\nwhat is this"), want: func(*VolumeMeta) {}},
		{name: "the last of two", text: line("SEQ=1", "SEQ=3\nSEQ=1"), want: func(*VolumeMeta) {}},
		{name: "before 5", text: line("CAP=1073741824", "SIZE=4096\nMTIME=0"), want: func(m *VolumeMeta) { m.Capacity = 4096 * 512 }},
		{name: "CAP and SIZE", text: line("CAP=", "SIZE=7\nCAP="), want: func(*VolumeMeta) {}},
		{name: "no SEQ, no GEN", text: line("GEN=0\n", ""), want: func(m *VolumeMeta) {}},
		{name: "no SEQ", text: line("SEQ=1\n", ""), want: func(m *VolumeMeta) { m.Sequence = 0 }},
		{name: "unknown key", text: line("SEQ=1", "SEQ=1\nNEW=a=b"), want: func(m *VolumeMeta) { m.Unknown = map[string]string{"NEW": "a=b"} }},
		{name: "empty description", text: line(`{"DiskAlias":"d1","DiskDescription":""}`, ""), want: func(m *VolumeMeta) { m.Description = "" }},
		{name: "no capacity", text: line("CAP=1073741824\n", ""), says: "no CAP"},
		{name: "no legality", text: line("LEGALITY=LEGAL\n", ""), says: "no LEGALITY"},
		{name: "no number", text: line("CAP=1073741824", "CAP=1G"), says: "CAP=1G"},
		{name: "negative", text: line("CAP=", "CAP=-"), says: "CAP=-1073741824"},
		{name: "generation too high", text: line("GEN=0", "GEN=1000"), says: "999"},
		{name: "SIZE that overflows", text: line("CAP=1073741824", "SIZE=18014398509481984"), says: "SIZE"},
		{name: "cleared", text: "NONE=" + strings.Repeat("#", 502) + "\nEOF\n", says: "cleared"},
		{name: "empty", text: "", says: "no DESCRIPTION"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseVolumeMeta([]byte(c.text))
			if c.want == nil {
				wantCode(t, err, code.VolumeMetadataRead, c.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := testMeta(imgA, BlankUUID, Leaf)
			c.want(&want)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestEncodeVolumeMeta(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*VolumeMeta)
		want   code.Code // 0 = fine
	}{
		{"as it is", func(m *VolumeMeta) {}, 0},
		{"highest numbers", func(m *VolumeMeta) { m.Capacity, m.Generation, m.Sequence = 64<<40, 999, 1<<32-1 }, 0},
		{"generation", func(m *VolumeMeta) { m.Generation = 1000 }, code.InvalidParameter},
		{"sequence", func(m *VolumeMeta) { m.Sequence = 1 << 32 }, code.InvalidParameter},
		{"capacity", func(m *VolumeMeta) { m.Capacity = -1 }, code.InvalidParameter},
		{"time", func(m *VolumeMeta) { m.CTime = time.Time{} }, code.InvalidParameter},
		{"two lines", func(m *VolumeMeta) { m.Description = "a\nLEGALITY=LEGAL" }, code.InvalidParameter},
		{"a key with =", func(m *VolumeMeta) { m.Unknown = map[string]string{"A=B": ""} }, code.InvalidParameter},
		{"a key that ends it", func(m *VolumeMeta) { m.Unknown = map[string]string{"EOFX": ""} }, code.InvalidParameter},
		{"210 two-byte characters", func(m *VolumeMeta) { m.Description = strings.Repeat("é", 300) }, code.MetadataOverflow},
		{"too long by unknown keys", func(m *VolumeMeta) { m.Unknown = map[string]string{"X": strings.Repeat("x", 300)} }, code.MetadataOverflow},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := testMeta(imgA, BlankUUID, Leaf)
			c.change(&m)
			data, err := m.Encode()
			if c.want != 0 {
				wantCode(t, err, c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseVolumeMeta(data); err != nil || !reflect.DeepEqual(again, m) {
				t.Fatalf("comes back as %+v (%v)", again, err)
			}
		})
	}
}

func TestDescriptionIsCutAt210Characters(t *testing.T) {
	m := testMeta(imgA, BlankUUID, Leaf)
	m.Description = " " + strings.Repeat("é", 20) + strings.Repeat("x", 300)
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseVolumeMeta(data)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "description", again.Description, strings.Repeat("é", 20)+strings.Repeat("x", 190))
}

func TestFullMetadataIsExactly512Bytes(t *testing.T) {
	m := testMeta(imgA, BlankUUID, Leaf)
	m.Unknown = map[string]string{"X": strings.Repeat("x", MaxMetaSize-295-len("X=\n"))}
	if data, err := m.Encode(); err != nil || len(data) != MaxMetaSize {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	m.Unknown["X"] += "x"
	_, err := m.Encode()
	wantCode(t, err, code.MetadataOverflow)
}

func TestDomainMeta(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       code.Code
		says       string
	}{
		{"example", exampleDomain, 0, ""},
		{"no checksum is trusted", strings.Replace(exampleDomain, "_SHA_CKSUM=615aabefe565738ffb2f6b4d877bda2a44beb24f\n", "", 1), 0, ""},
		{"padded with NULs", exampleDomain + "\x00\x00", 0, ""},
		{"edited", strings.Replace(exampleDomain, "ROLE=Regular", "ROLE=Master", 1), code.MetadataSealBroken, "checksum"},
		{"key added", "A=b\n" + exampleDomain, code.MetadataSealBroken, "checksum"},
		{"empty", "", code.DomainMetadata, "no "},
		{"not UTF-8", "SDUUID=\xff\n", code.DomainMetadata, "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseDomainMeta([]byte(c.text))
			if c.want == 0 && err != nil {
				t.Fatal(err)
			}
			if c.want != 0 {
				wantCode(t, err, c.want, c.says)
			}
		})
	}
}

func TestDomainMetaKeepsWhatItDoesNotKnow(t *testing.T) {
	m, err := ParseDomainMeta([]byte(exampleDomain))
	if err != nil {
		t.Fatal(err)
	}
	m.Name = "Café ☕ \U0001f600"
	m.Pools = []string{imgA, imgB}
	maps.Copy(m.Other, map[string]string{"MASTER_VERSION": "1", "FUTURE": "x"})
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseDomainMeta(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, m) {
		t.Fatalf("got %+v, want %+v", again, m)
	}
}

// The rule of the checksum, spelled out once: ASCII, with everything else as decimal character references.
func TestChecksumOfNonASCII(t *testing.T) {
	equal(t, "checksum", checksum([]string{"A=é", "B=\U0001f600"}), checksum([]string{"A=&#233;B=&#128512;"}))
}

func FuzzVolumeMeta(f *testing.F) {
	f.Add([]byte(exampleVolume))
	f.Add([]byte(strings.ReplaceAll(exampleVolume, "CAP=1073741824", "SIZE=8\nMTIME=0")))
	f.Add([]byte(exampleVolume + "\x00\x00"))
	f.Add([]byte("X=1\n EOF=2\n=3\nY=\x00z\n\xff=\xfe\n" + exampleVolume))
	f.Add([]byte("NONE=#\nEOF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseVolumeMeta(data)
		if err != nil {
			if code.Of(err) != code.VolumeMetadataRead {
				t.Fatalf("error %v without its number", err)
			}
			return
		}
		out, err := m.Encode()
		if err != nil {
			if code.Of(err) != code.MetadataOverflow {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			return
		}
		again, err := ParseVolumeMeta(out)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		m.Description = cutDescription(m.Description)
		if !reflect.DeepEqual(again, m) {
			t.Fatalf("read %+v, then %+v", m, again)
		}
	})
}

func FuzzDomainMeta(f *testing.F) {
	f.Add([]byte(exampleDomain))
	f.Add([]byte(strings.Replace(exampleDomain, "_SHA_CKSUM=", "X=", 1)))
	f.Add([]byte("_SHA_CKSUM=da39a3ee5e6b4b0d3255bfef95601890afd80709\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseDomainMeta(data)
		if err != nil {
			if c := code.Of(err); c != code.DomainMetadata && c != code.MetadataSealBroken {
				t.Fatalf("error %v without its number", err)
			}
			return
		}
		out, err := m.Encode()
		if code.Of(err) == code.InvalidParameter {
			return // without a checksum, keys may be anything
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseDomainMeta(out)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("read %+v, then %+v (%v)", m, again, err)
		}
	})
}
