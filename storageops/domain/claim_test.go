package domain

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"vdsm-agent/internal/code"
)

// TestMain lets this program be the other one that wants the claim: with claimer set, it is an agent (or, with lockOnly,
// a host that only has the file lock, as VDSM) that claims the domain, says so, and holds it until its input ends.
func TestMain(m *testing.M) {
	if state := os.Getenv("TEST_CLAIMER"); state != "" {
		os.Exit(claimer(state))
	}
	os.Exit(m.Run())
}

func claimer(state string) int {
	r, err := OpenRegistry(Options{Dir: state, Owner: Owner{-1, -1}, Name: "the other one", Log: zerolog.Nop()})
	if err == nil {
		_, err = r.Get(sdUUID)
	}
	if err != nil {
		fmt.Println(code.Of(err), err)
		return 1
	}
	fmt.Println("claimed")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// claimElsewhere starts another process that claims the domain. It returns what it said, and a function that ends it.
func (x *fixture) claimElsewhere() (said string, end func()) {
	x.t.Helper()
	self, err := os.Executable()
	x.must(err)
	cmd := exec.Command(self)
	state := x.t.TempDir()
	x.must(os.MkdirAll(filepath.Join(state, "mnt"), dirMode))
	x.must(os.Symlink(x.root, filepath.Join(state, "mnt", mangle(x.root))))
	cmd.Env = append(os.Environ(), "TEST_CLAIMER="+state)
	in, err := cmd.StdinPipe()
	x.must(err)
	out, err := cmd.StdoutPipe()
	x.must(err)
	x.must(cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	ended := false
	end = func() {
		if !ended {
			ended = true
			in.Close()
			cmd.Wait()
		}
	}
	x.t.Cleanup(end)
	return strings.TrimSpace(line), end
}

func TestSecondClaimerIsRefused(t *testing.T) {
	x := newFixture(t)
	said, end := x.claimElsewhere()
	end()
	if !strings.HasPrefix(said, "651 ") || !strings.Contains(said, "agent-under-test") || !strings.Contains(said, sdUUID) {
		t.Fatalf("the other one said %q", said)
	}

	x.reg.Close()
	said, end = x.claimElsewhere()
	if said != "claimed" {
		t.Fatalf("the other one said %q", said)
	}
	x.open()
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.AcquireLock, sdUUID, "the other one")

	d, err := x.reg.GetReadOnly(sdUUID) // reading needs no claim
	x.must(err)
	_, err = d.Chain(imgA, volLeaf)
	x.must(err)
	before := x.snapshot(true)
	for name, change := range map[string]func(*Domain) error{
		"meta":    setLegality(imgA, volLeaf, Illegal),
		"write":   func(d *Domain) error { return d.WriteVolumeMeta(imgA, volLeaf, testMeta(imgA, BlankUUID, Leaf)) },
		"domain":  func(d *Domain) error { return d.UpdateMeta(func(*DomainMeta) error { return nil }) },
		"mkdir":   func(d *Domain) error { _, err := d.CreateImageDir(nowhere); return err },
		"rmdir":   func(d *Domain) error { return d.RemoveImageDirIfEmpty(imgA) },
		"mode":    func(d *Domain) error { return d.SetMode(imgA, volLeaf) },
		"share":   func(d *Domain) error { return d.ShareTemplate(imgTmpl, volTmpl, imgA) },
		"unshare": func(d *Domain) error { return d.UnshareTemplate(imgTmpl, volTmpl, imgC) },
		"put":     put(Entry{Label: "v", Image: imgA}),
		"restore": restore,
		"remove":  func(d *Domain) error { return d.Trash().Remove(t.Context(), taskOne, nil) },
		"dup":     func(d *Domain) error { _, err := d.DupClaim(); return err },
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, change(d), code.AcquireLock, sdUUID) })
	}
	equal(t, "after refused changes", x.snapshot(true), before)

	end()
	x.claim()
	x.must(setLegality(imgA, volLeaf, Illegal)(x.d))
}

func TestAWorkerKeepsTheClaim(t *testing.T) {
	x := newFixture(t)
	kept, err := x.d.DupClaim()
	x.must(err)
	x.reg.Close()
	if said, _ := x.claimElsewhere(); !strings.HasPrefix(said, "651 ") {
		t.Fatalf("the other one said %q", said)
	}
	x.must(kept.Close())
	if said, _ := x.claimElsewhere(); said != "claimed" {
		t.Fatalf("the other one said %q", said)
	}
}

func TestWhoHoldsTheLockWithoutAName(t *testing.T) {
	x := newFixture(t)
	x.reg.Close()
	x.must(os.Remove(x.path(claimFile)))
	ids, err := os.Open(x.path(idsFile))
	x.must(err)
	defer ids.Close()
	x.must(tryLock(ids))
	x.open()
	_, err = x.reg.Get(sdUUID)
	wantCode(t, err, code.AcquireLock, "VDSM")
}

func TestIdsReplacedUnderAClaim(t *testing.T) {
	x := newFixture(t)
	x.must(os.Remove(x.path(idsFile)))
	_, err := x.reg.Get(sdUUID)
	wantCode(t, err, code.Storage, idsFile)
	x.put(idsFile, "", dataMode)
	x.claim()
	if said, _ := x.claimElsewhere(); !strings.HasPrefix(said, "651 ") {
		t.Fatalf("the other one said %q", said)
	}
}

func TestWhatCanOnlyBeRead(t *testing.T) {
	for _, c := range []struct {
		name, line, now string
		want            code.Code
	}{
		{"version 4", "VERSION=5", "VERSION=4", code.UnsupportedVersion},
		{"GlusterFS", "TYPE=LOCALFS", "TYPE=GLUSTERFS", code.DomainType},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newFixture(t)
			x.reg.Close()
			text, _, _ := strings.Cut(strings.Replace(exampleDomain, c.line, c.now, 1), "_SHA")
			x.put(metadataFile, text, metaMode)
			x.open()
			_, err := x.reg.Get(sdUUID)
			wantCode(t, err, c.want, sdUUID)
			d, err := x.reg.GetReadOnly(sdUUID)
			x.must(err)
			_, err = d.Volumes("")
			x.must(err)
		})
	}
}
