// Package test starts the real daemon and the real client, with real qemu-img, file systems and signals, and reads what a
// person would read. The scripts in testdata are the tests; the commands that they use beyond testscript's own are in this
// file. It also keeps the rules of the project's structure (rules_test.go). Nothing imports it.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"vdsm-agent/rpc/certs/certstest"
	"vdsm-agent/rpc/wire"
	"vdsm-agent/storageops/domain/hangfs"

	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/testscript"
)

// binaries is where the programs under test are built, once.
var binaries string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vdsm-agent-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	build := exec.Command("go", "build", "-o", dir, "vdsm-agent/cmd/vdsm-agentd", "vdsm-agent/cmd/vdsm-agentctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "the programs cannot be built: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// TestScripts runs every script. They need root, for loop mounts.
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount file systems: run them as root")
	}
	for _, program := range []string{"qemu-img", "qemu-io", "mke2fs", "mkfs.xfs", "xfs_io", "mount", "strace", "zsh", "fish", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing; `make test` installs it: %v", program, err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			state := filepath.Join(e.WorkDir, "state")
			e.Setenv("PATH", binaries+":"+os.Getenv("PATH"))
			e.Setenv("STATE", state)
			e.Setenv("VDSM_AGENT_SOCKET", filepath.Join(state, "api.sock"))
			e.Setenv("ZERO", "00000000-0000-0000-0000-000000000000")
			d := &daemon{state: state, authorities: map[string]*certstest.Authority{}}
			e.Values[daemonKey{}] = d
			e.Values[hangKey{}] = new(*hangfs.FS)
			e.Defer(func() {
				d.endInject()
				d.kill()
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agentd": agentd, "agentkill": agentkill, "agentstop": agentstop, "agentlog": agentlog,
			"ctl": ctl, "json": isJSON, "uuids": uuids, "domain": domainOf, "task": submit, "image": image, "halfway": halfway, "loopmount": loopmount,
			"fillup":    fillUp,
			"hangmount": hangMount, "hang": hang, "hung": hung, "unhang": unhang, "stuck": stuck, "says": says, "inject": inject, "endinject": endInject, "sh": shell,
			"certificate": certificate, "address": address, "freeport": freePort, "hangup": hangUp,
		},
	})
}

type daemonKey struct{}

// daemon is the one of a script.
type daemon struct {
	state string
	cmd   *exec.Cmd
	log   lockedBuffer
	from  int // of the log, since the last start
	ended chan error

	authorities map[string]*certstest.Authority // by their directories

	strace *exec.Cmd // makes its system calls fail; nil = none
}

func of(ts *testscript.TestScript) *daemon { return ts.Value(daemonKey{}).(*daemon) }

// agentd [FLAG…]: starts the daemon on $STATE and waits until it answers; with ! it must refuse to start, and what it says is
// the standard error to match.
func agentd(ts *testscript.TestScript, neg bool, args []string) {
	d := of(ts)
	args = append([]string{"--state-dir", d.state}, args...)
	if neg {
		err := ts.Exec("vdsm-agentd", args...)
		if err == nil {
			ts.Fatalf("the daemon started and ended without an error")
		}
		return
	}
	d.from = len(d.log.String())
	d.cmd = exec.Command(filepath.Join(binaries, "vdsm-agentd"), args...)
	d.cmd.Stderr = &d.log
	d.ended = make(chan error, 1)
	ts.Check(d.cmd.Start())
	go func() { d.ended <- d.cmd.Wait() }()
	for {
		if _, err := command(ts, "Host", "ping"); err == nil {
			return
		}
		select {
		case err := <-d.ended:
			d.ended <- err
			ts.Fatalf("the daemon ended: %v\n%s", err, d.log.String())
		default:
		}
	}
}

// kill ends the daemon with SIGKILL, if there is one.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.ended
	d.cmd = nil
}

// agentkill: SIGKILL.
func agentkill(ts *testscript.TestScript, _ bool, _ []string) { of(ts).kill() }

// agentstop: SIGTERM; the daemon must end without an error.
func agentstop(ts *testscript.TestScript, _ bool, _ []string) {
	d := of(ts)
	ts.Check(d.cmd.Process.Signal(syscall.SIGTERM))
	if err := <-d.ended; err != nil {
		ts.Fatalf("the daemon ended badly: %v\n%s", err, d.log.String())
	}
	d.cmd = nil
}

// agentlog TEXT: TEXT is, or with ! is not, in what the daemon has logged.
func agentlog(ts *testscript.TestScript, neg bool, args []string) {
	if found := strings.Contains(of(ts).log.String(), args[0]); found == neg {
		ts.Fatalf("%q in the daemon's log: %t\n%s", args[0], found, of(ts).log.String())
	}
}

// command runs the client and returns its standard output.
func command(ts *testscript.TestScript, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(binaries, "vdsm-agentctl"), args...)
	cmd.Env = append(os.Environ(), "VDSM_AGENT_SOCKET="+ts.Getenv("VDSM_AGENT_SOCKET"))
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// ctl STATUS ARG…: runs the client, which must exit with STATUS; its output can be matched afterwards.
func ctl(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: ctl STATUS ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("vdsm-agentctl", args[1:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// json STREAM: every line that the last command wrote to stdout or stderr together is one value of JSON after the other, at least one.
func isJSON(ts *testscript.TestScript, _ bool, args []string) {
	values := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	for n := 0; ; n++ {
		var value any
		err := values.Decode(&value)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		if err != nil {
			ts.Fatalf("%s is not JSON: %v\n%s", args[0], err, ts.ReadFile(args[0]))
		}
	}
}

// uuids NAME…: sets each variable to a new id.
func uuids(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, uuid.NewString())
	}
}

// domain NAME: sets the variable to the id of the only domain.
func domainOf(ts *testscript.TestScript, _ bool, args []string) {
	out, err := command(ts, "Host", "getStorageDomains")
	ts.Check(err)
	var ids []string
	ts.Check(json.Unmarshal([]byte(out), &ids))
	if len(ids) != 1 {
		ts.Fatalf("there are %d domains", len(ids))
	}
	ts.Setenv(args[0], ids[0])
}

// task NAME NAMESPACE VERB ARG…: submits and sets the variable to the task's id.
func submit(ts *testscript.TestScript, _ bool, args []string) {
	out, err := command(ts, args[1:]...)
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			ts.Fatalf("%v: %s", err, exit.Stderr)
		}
		ts.Check(err)
	}
	ts.Setenv(args[0], strings.Trim(out, `"`))
}

// image FILE FORMAT SIZE DATA: makes an image with DATA MiB of incompressible data in it, spread over all of it.
func image(ts *testscript.TestScript, _ bool, args []string) {
	file, format := ts.MkAbs(args[0]), args[1]
	ts.Check(ts.Exec("qemu-img", "create", "-q", "-f", format, file, args[2]))
	total, err := strconv.Atoi(args[3])
	ts.Check(err)
	raw := file
	if format != "raw" {
		raw = file + ".raw"
		ts.Check(ts.Exec("qemu-img", "create", "-q", "-f", "raw", raw, args[2]))
	}
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	ts.Check(err)
	random, err := os.Open("/dev/urandom")
	ts.Check(err)
	defer random.Close()
	info, err := f.Stat()
	ts.Check(err)
	const piece = 4 << 20
	gap := info.Size() / int64(max(total/4, 1))
	for i := range int64(total / 4) {
		_, err := f.Seek(i*gap, io.SeekStart)
		ts.Check(err)
		_, err = io.CopyN(f, random, piece)
		ts.Check(err)
	}
	ts.Check(f.Close())
	if format != "raw" {
		ts.Check(ts.Exec("qemu-img", "convert", "-f", "raw", "-O", format, raw, file))
		ts.Check(os.Remove(raw))
	}
}

// halfway TASK: returns when the task has copied some of its data but not all; fails if it ended before.
func halfway(ts *testscript.TestScript, _ bool, args []string) {
	whileItLives(ts, args[0], func(d wire.Details) bool {
		return d.Progress != nil && d.Progress.Percent >= 20 && !d.LastCheckpoint.IsZero()
	})
}

// loopmount FILE DIR TYPE SIZE: makes a file system in a file and mounts it; it is unmounted with the script's end.
func loopmount(ts *testscript.TestScript, _ bool, args []string) {
	file, dir := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	ts.Check(ts.Exec("truncate", "-s", args[3], file))
	if args[2] == "xfs" {
		ts.Check(ts.Exec("mkfs.xfs", "-q", file))
	} else {
		ts.Check(ts.Exec("mke2fs", "-q", "-t", args[2], file))
	}
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(ts.Exec("mount", "-o", "loop", file, dir))
	ts.Defer(func() {
		of(ts).kill() // it holds the claim
		_ = exec.Command("umount", "-l", dir).Run()
	})
}

// fillup DIR: takes all room of the file system that DIR is on, with the file "filler" in it.
func fillUp(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(filepath.Join(ts.MkAbs(args[0]), "filler"))
	ts.Check(err)
	defer f.Close()
	for piece := 1 << 20; piece > 0; {
		_, err := f.Write(make([]byte, piece))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			piece /= 16
		case err != nil:
			ts.Fatalf("%v", err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		ts.Fatalf("%v", err)
	}
}

// sh SCRIPT: for what needs a pipe or a pattern.
func shell(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("bash", "-euc", args[0])
	if (err != nil) != neg {
		ts.Fatalf("the shell answered %v", err)
	}
}

// lockedBuffer takes a log while somebody reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
