package storageops_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vdsm-agent/internal/proc"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/copy"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// TestMain lets this binary be the worker of copies, as the agent's own binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == copy.WorkerCommand {
		os.Exit(copy.WorkerMain(os.Args[2:]))
	}
	status := m.Run()
	if furnishedDir != "" {
		os.RemoveAll(furnishedDir)
	}
	os.Exit(status)
}

const (
	sd       = "11111111-2222-4333-8444-555555555555"
	imgA     = "aaaaaaaa-0000-4000-8000-000000000001"
	imgB     = "aaaaaaaa-0000-4000-8000-000000000002"
	imgTmpl  = "aaaaaaaa-0000-4000-8000-000000000003"
	volRaw   = "bbbbbbbb-0000-4000-8000-000000000001" // raw, 12 MiB, imgA, parent of volTop
	volTop   = "bbbbbbbb-0000-4000-8000-000000000002" // cow over volRaw, leaf
	volTmpl  = "bbbbbbbb-0000-4000-8000-000000000003" // cow, SHARED, imgTmpl
	volNew   = "bbbbbbbb-0000-4000-8000-000000000004"
	volOld   = "bbbbbbbb-0000-4000-8000-000000000005" // cow, alone in imgB
	taskID   = "cccccccc-0000-4000-8000-000000000001"
	zeroUUID = "00000000-0000-0000-0000-000000000000"
)

// host is the storage verbs over a real domain, real workers and a store in memory.
type host struct {
	*tasks.Engine
	t       *testing.T
	dir     string
	store   *tasktest.MemStore
	workers *proc.Manager
	domains *domain.Registry
	storage *storageops.Storage
}

// newHost makes a domain with a chain of two, a template and a volume of its own, as other verbs have left them.
func newHost(t *testing.T) *host {
	t.Helper()
	return newHostIn(t, t.TempDir())
}

// newHostInMemory is newHost on a file system in memory, for tests that need hundreds of them: a sync costs nothing there.
func newHostInMemory(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "storageops-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return newHostIn(t, dir)
}

func newHostIn(t *testing.T, dir string) *host {
	t.Helper()
	h := &host{t: t, dir: dir, store: tasktest.NewMemStore()}
	h.run("cp", "-a", "--sparse=always", filepath.Join(furnished(t), "root"), dir)
	return h.open()
}

var (
	furnishing   sync.Mutex
	furnishedDir string // guarded by furnishing
)

// furnished is the directory of a host that all others are copies of.
func furnished(t *testing.T) string {
	t.Helper()
	furnishing.Lock()
	defer furnishing.Unlock()
	if furnishedDir != "" {
		return furnishedDir
	}
	dir, err := os.MkdirTemp("/dev/shm", "storageops-")
	if err != nil {
		t.Fatal(err)
	}
	h := (&host{t: t, dir: dir, store: tasktest.NewMemStore()}).open()
	if _, err := h.domains.Create(domain.CreateSpec{UUID: sd, Path: h.root(), Name: "test", Type: domain.TypeLocalFS, Class: "Data", Version: 5}); err != nil {
		t.Fatal(err)
	}
	h.volume(imgA, volRaw, zeroUUID, domain.FormatRaw, domain.Internal)
	h.volume(imgA, volTop, volRaw, domain.FormatCOW, domain.Leaf)
	h.volume(imgTmpl, volTmpl, zeroUUID, domain.FormatCOW, domain.Shared)
	h.volume(imgB, volOld, zeroUUID, domain.FormatCOW, domain.Leaf)
	for _, bitmap := range []string{"-first", "second"} {
		h.run("qemu-img", "bitmap", "--add", "-f", "qcow2", "--", h.path("images", imgB, volOld), bitmap)
	}
	h.close()
	furnishedDir = dir
	return dir
}

func (h *host) root() string { return filepath.Join(h.dir, "root") }
func (h *host) path(parts ...string) string {
	return filepath.Join(append([]string{h.root(), sd}, parts...)...)
}

// open starts what a fresh process starts, on what is there.
func (h *host) open() *host { return h.openAs("test") }

// openAs is open as the agent of that name, of which nothing but the domain is left if it has no store.
func (h *host) openAs(name string) *host {
	h.t.Helper()
	next := &host{t: h.t, dir: h.dir, store: h.store}
	if next.store == nil {
		next.store = tasktest.NewMemStore()
	}
	for _, d := range []string{h.root(), filepath.Join(h.dir, "state")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	var err error
	next.workers, err = proc.New(proc.Options{Dir: filepath.Join(h.dir, "workers"), Name: uuid.NewSHA1(uuid.NameSpaceOID, []byte(h.dir)).String(), Log: zerolog.Nop()})
	if err != nil {
		h.t.Fatal(err)
	}
	next.domains, err = domain.OpenRegistry(domain.Options{Dir: filepath.Join(h.dir, "state"), Owner: domain.Owner{UID: -1, GID: -1}, Name: name, Log: zerolog.Nop()})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := next.domains.AddRoot(h.root()); err != nil {
		h.t.Fatal(err)
	}
	next.storage = storageops.New(storageops.Options{Domains: next.domains, Workers: next.workers, TrashFor: time.Hour, Log: zerolog.Nop()})
	next.storage.Claim(h.t.Context())
	next.Engine = tasks.New(tasks.Options{Store: next.store, Verbs: next.storage.Verbs(), Log: zerolog.Nop()})
	if err := next.Start(nil); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(next.close)
	return next
}

func (h *host) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		h.t.Error(err)
	}
	if err := h.workers.Close(); err != nil {
		h.t.Error(err)
	}
	h.domains.Close()
}

// discard ends the host and its files, before the test ends.
func (h *host) discard() {
	h.t.Helper()
	h.close()
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
}

// volume puts a volume with some data in place by hand.
func (h *host) volume(img, vol, parent, format, volType string) {
	h.t.Helper()
	h.volumeIn(sd, domain.VolumeMeta{Image: img, PUUID: parent, Format: format, VolType: volType}, vol,
		fmt.Sprintf("write -q -P %d 1M 5M", vol[len(vol)-1]), fmt.Sprintf("write -q -P %d 9M 64k", img[len(img)-1]))
}

// volumeIn makes a volume of 12 MiB in a domain, with what qemu-io does to it.
func (h *host) volumeIn(id string, m domain.VolumeMeta, vol string, commands ...string) {
	h.t.Helper()
	must := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	d, err := h.domains.Get(id)
	must(err)
	_, err = d.CreateImageDir(m.Image)
	must(err)
	file := filepath.Join(h.root(), id, "images", m.Image, vol)
	words := map[string]string{domain.FormatRaw: "raw", domain.FormatCOW: "qcow2"}
	args := []string{"create", "-q", "-f", words[m.Format]}
	if m.Format == domain.FormatCOW {
		args = append(args, "-o", "compat=1.1")
	}
	if m.PUUID != zeroUUID {
		parent, err := d.ReadVolume(m.Image, m.PUUID)
		must(err)
		args = append(args, "-u", "-b", m.PUUID, "-F", words[parent.Format])
	}
	h.run("qemu-img", append(args, file, "12M")...)
	var io []string
	for _, c := range commands {
		io = append(io, "-c", c)
	}
	if len(io) > 0 {
		h.run("qemu-io", append(append([]string{"-f", words[m.Format]}, io...), file)...)
	}
	must(d.SetMode(m.Image, vol))
	m.Capacity, m.CTime, m.DiskType, m.Domain, m.Legality = 12<<20, time.Unix(1700000000, 0), "DATA", id, domain.Legal
	m.Type = cmp.Or(m.Type, domain.Sparse)
	must(d.WriteVolumeMeta(m.Image, vol, m))
}

func (h *host) run(name string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// submit submits the verb under taskID.
func (h *host) submit(verb string, params map[string]any) error {
	h.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = h.Submit(h.t.Context(), tasks.Submission{ID: taskID, Verb: verb, Params: raw, Who: "tester"})
	return err
}

// ended waits for the end of the task, and of what it has put off.
func (h *host) ended() tasks.View {
	h.t.Helper()
	if _, err := h.Wait(h.t.Context(), taskID, tasks.Ended); err != nil {
		h.t.Fatal(err)
	}
	v, err := h.Get(taskID)
	if err != nil {
		h.t.Fatal(err)
	}
	h.settle()
	return v
}

// settle waits until only final tasks are left.
func (h *host) settle() {
	h.t.Helper()
	for _, v := range h.List(tasks.Filter{}) {
		if _, err := h.Wait(h.t.Context(), v.ID, tasks.Ended); err != nil && v.Verb != "Trash.empty" { // that clears itself
			h.t.Fatal(err)
		}
	}
}

var ctime = regexp.MustCompile(`CTIME=\d+`)

// tree is the domains as an observer sees them: every file with its mode and links, metadata but for the time, and of volumes
// what a guest would read. Our own folder is left out, but for what is in the trash.
func (h *host) tree() string {
	h.t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(h.root(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, h.path())
		name = strings.TrimPrefix(name, h.root()) // of another domain, whose id stays
		if strings.Contains(name, "/.vdsm-agent") {
			if strings.Contains(name, "/.vdsm-agent/trash/") && !e.IsDir() {
				fmt.Fprintf(&b, "trash %s\n", regexp.MustCompile(`[^/]+/[^/]+$`).FindString(name))
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", info.Mode(), name)
		switch {
		case strings.HasSuffix(name, ".meta"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %s", strings.ReplaceAll(ctime.ReplaceAllString(string(text), "CTIME"), "\n", " "))
		case strings.Contains(name, "/images/") && !e.IsDir():
			fmt.Fprintf(&b, " %s", h.guest(path))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return b.String()
}

// guests are what was found of volumes, by their content and that of all that may be below them: most of what a tree shows has not
// changed since the last one.
var guests sync.Map

var guestSeed = maphash.MakeSeed()

// guest is what look says of a volume, which is not looked at twice.
func (h *host) guest(path string) string {
	h.t.Helper()
	var hash maphash.Hash
	hash.SetSeed(guestSeed)
	hash.WriteString(filepath.Base(path))
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), f.Name()))
		if err != nil {
			h.t.Fatal(err)
		}
		fmt.Fprintf(&hash, "/%s %d ", f.Name(), len(text))
		hash.Write(text)
	}
	if what, found := guests.Load(hash.Sum64()); found {
		return what.(string)
	}
	what := h.look(path)
	guests.Store(hash.Sum64(), what)
	return what
}

// look is a volume's format, a hash of what a guest would read of it up to the last byte that is not zero, its size, and a hash of
// where in its chain each part of it is; then its version and its bitmaps.
func (h *host) look(path string) string {
	h.t.Helper()
	meta, err := os.ReadFile(path + ".meta")
	if err != nil {
		return "no metadata"
	}
	format := "raw"
	if strings.Contains(string(meta), "FORMAT=COW") {
		format = "qcow2"
	}
	cmd := exec.Command("qemu-img", "convert", "-f", format, "-O", "raw", path, "/dev/stdout")
	flat := filepath.Join(h.t.TempDir(), "flat")
	cmd.Args[len(cmd.Args)-1] = flat
	if out, err := cmd.CombinedOutput(); err != nil {
		return "unreadable: " + string(out)
	}
	defer os.Remove(flat)
	content, err := os.ReadFile(flat)
	if err != nil {
		h.t.Fatal(err)
	}
	what := fmt.Sprintf("%s %x size:%d", format, sha256.Sum256(bytes.TrimRight(content, "\x00")), len(content))
	if format == "raw" {
		return what // where it has holes is the file system's affair
	}
	layers := sha256.Sum256([]byte(fmt.Sprint(h.layers(path, format))))
	return fmt.Sprintf("%s map:%x %s", what, layers[:4], h.features(path))
}

// features are the version of a qcow2 image, and its bitmaps with their flags.
func (h *host) features(path string) string {
	h.t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Compat  string `json:"compat"`
				Bitmaps []struct {
					Name  string   `json:"name"`
					Flags []string `json:"flags"`
				} `json:"bitmaps"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal([]byte(h.run("qemu-img", "info", "-f", "qcow2", "--output=json", path)), &info); err != nil {
		h.t.Fatal(err)
	}
	text := info.Specific.Data.Compat
	for _, m := range info.Specific.Data.Bitmaps {
		text += fmt.Sprintf(" %s:%s", m.Name, strings.Join(m.Flags, ","))
	}
	return text
}

// extent is a stretch of a volume that is the same in its chain.
type extent struct {
	Start, Length       int64
	Depth               int
	Present, Zero, Data bool
}

// layers says where in its chain each part of a volume is, and of its own parts what they are. Where in the file these lie makes no
// difference, nor that a stretch ends only because the next one lies elsewhere: several requests are under way when a qcow2 image is
// written. What a layer below has there is its own affair, and where that is raw, the file system's.
func (h *host) layers(path, format string) (joined []extent) {
	h.t.Helper()
	var all []extent
	if err := json.Unmarshal([]byte(h.run("qemu-img", "map", "-f", format, "--output=json", path)), &all); err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Depth > 0 {
			e = extent{Start: e.Start, Length: e.Length, Depth: e.Depth}
		}
		if n := len(joined); n > 0 {
			next := joined[n-1]
			next.Start, next.Length = e.Start, e.Length
			if next == e {
				joined[n-1].Length += e.Length
				continue
			}
		}
		joined = append(joined, e)
	}
	return joined
}

// crash makes of the host what a fresh process finds after this one died: rng decides about changes that were being
// written.
func (h *host) crash(rng *rand.Rand) *host {
	h.t.Helper()
	left := h.store.Crash(func() bool { return rng.IntN(2) == 0 })
	h.close()
	next := &host{t: h.t, dir: h.dir, store: left}
	return next.open()
}

// atCommit calls f before the nth change is written, and before each after it; f's error is its answer. It returns the number
// of changes so far.
func (h *host) atCommit(n int64, f func() error) *atomic.Int64 {
	return h.atChange(n, func(store.Change) error { return f() })
}

// atChange is atCommit that also says what is being written.
func (h *host) atChange(n int64, f func(store.Change) error) *atomic.Int64 {
	var count atomic.Int64
	h.store.OnCommit = func(c store.Change) error {
		if count.Add(1) >= n {
			return f(c)
		}
		return nil
	}
	return &count
}
