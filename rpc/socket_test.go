package rpc_test

import (
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"vdsm-agent/rpc"
)

func TestListenMode(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		old := syscall.Umask(mask)
		dir := t.TempDir()
		path := filepath.Join(dir, "api.sock")
		l, err := rpc.Socket{Path: path}.Listen()
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if file.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("with umask %o its mode is %s", mask, file.Mode())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		wantFiles(t, dir, "api.sock.lock")
	}
}

func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("the directory holds %v, want %v", got, names)
	}
}

// TestListenReplacesTheDead: a socket that a killed process left is replaced.
func TestListenReplacesTheDead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as after a kill
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	wantFiles(t, dir, "api.sock", "api.sock.lock")
}

// TestListenSparesTheLiving: one that is accepted from, and one whose queue is full.
func TestListenSparesTheLiving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := (rpc.Socket{Path: path}).Listen(); err == nil || !strings.Contains(err.Error(), "another agent answers on "+path) {
		t.Errorf("a second agent is told %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Errorf("the first one does not answer any more: %v", err)
	} else {
		conn.Close()
	}

	busy := filepath.Join(t.TempDir(), "api.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: busy}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := (rpc.Socket{Path: busy}).Listen(); err == nil || !strings.Contains(err.Error(), "another agent listens on "+busy) {
		t.Errorf("beside a busy agent a second one is told %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                               "is not a socket",
		link:                               "is not a socket",
		dir:                                "is not a socket",
		filepath.Join(dir, "none", "s"):    "cannot be opened",
		"/tmp/" + strings.Repeat("x", 120): "choose one of 89 at most",
	} {
		if l, err := (rpc.Socket{Path: path}).Listen(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
			if err == nil {
				l.Close()
			}
		}
	}
	if kept, err := os.ReadFile(file); err != nil || string(kept) != "keep" {
		t.Errorf("the file holds %q, %v", kept, err)
	}
}

// TestListenRace: of many that start at the same time beside a dead one's socket, one wins, and it answers.
func TestListenRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	var mu sync.Mutex
	var won []net.Listener
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if l, err := (rpc.Socket{Path: path}).Listen(); err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, l)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d have won", len(won))
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := won[0].Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseSparesTheSuccessor: a listener that closes late does not remove the socket of another one.
func TestCloseSparesTheSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	first, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the second one's socket is gone: %v", err)
	}
}

// TestOthersMayNotConnect: a user who is neither the owner nor of the group is refused.
func TestOthersMayNotConnect(t *testing.T) {
	dir, err := os.MkdirTemp("", "rpc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	l, err := rpc.Socket{Path: path}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if os.Getenv(childOf) != "" {
		t.Fatal("the child runs the wrong test")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "child") // where that user may run it
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestChildDials$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), childOf+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dialled: permission denied") {
		t.Errorf("another user is told %s (%v; this test needs root)", out, err)
	}
}
