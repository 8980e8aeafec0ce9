//go:build vm

package vmops_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vdsm-agent/internal/proc"
	"vdsm-agent/rpc/client"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops"
	"vdsm-agent/vmops/virt"
	"vdsm-agent/vmops/vmtest"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

const (
	sd     = "11111111-2222-4333-8444-555555555555"
	pool   = "22222222-2222-4333-8444-555555555555"
	vmID   = "dddddddd-0000-4000-8000-000000000001"
	imgMem = "aaaaaaaa-0000-4000-8000-000000000001"
	volMem = "bbbbbbbb-0000-4000-8000-000000000001"
	imgCnf = "aaaaaaaa-0000-4000-8000-000000000002"
	volCnf = "bbbbbbbb-0000-4000-8000-000000000002"
	saved  = sd + "," + pool + "," + imgMem + "," + volMem + "," + imgCnf + "," + volCnf
)

var libvirtd *vmtest.Host

func TestMain(m *testing.M) { os.Exit(vmtest.Run(m, func(h *vmtest.Host) { libvirtd = h })) }

// agent is what a process of the agent is of the parts that matter here, over a real libvirt and a domain on a disk.
type agent struct {
	*tasks.Engine
	t       *testing.T
	host    *vmtest.Host // nil = the one that all tests have
	dial    func(ctx context.Context, address string) (*client.Client, error)
	dir     string
	store   *tasktest.MemStore
	workers *proc.Manager
	domains *domain.Registry
	libvirt *virt.Client
	vms     *vmops.VMs
}

// newAgent makes one with an empty memory volume and an empty configuration volume.
func newAgent(t *testing.T) *agent {
	t.Helper()
	dir := filepath.Join(libvirtd.Dir, t.Name())
	a := (&agent{t: t, dir: dir, store: tasktest.NewMemStore()}).open()
	d, err := a.domains.Create(domain.CreateSpec{UUID: sd, Path: filepath.Join(dir, "root"), Name: "test", Type: domain.TypeLocalFS, Class: "Data", Version: 5})
	must(t, err)
	for img, vol := range map[string]string{imgMem: volMem, imgCnf: volCnf} {
		_, err := d.CreateImageDir(img)
		must(t, err)
		must(t, os.WriteFile(a.path(img, vol), nil, 0o660))
		must(t, d.SetMode(img, vol))
		must(t, d.WriteVolumeMeta(img, vol, domain.VolumeMeta{
			Capacity: 64 << 20, CTime: time.Unix(1700000000, 0), DiskType: "MEMM", Domain: sd, Format: domain.FormatRaw, Image: img, Legality: domain.Legal,
			PUUID: domain.BlankUUID, Type: domain.Sparse, VolType: domain.Leaf,
		}))
	}
	must(t, a.empty())
	return a
}

var shapeMem, shapeCnf = domain.Shape{Length: 64 << 20, Reserved: true}, domain.Shape{Length: 64 << 20}

func (a *agent) path(img, vol string) string {
	return filepath.Join(a.dir, "root", sd, "images", img, vol)
}

// open starts what a fresh process starts.
func (a *agent) open() *agent {
	a.t.Helper()
	log := zerolog.New(zerolog.NewTestWriter(a.t)).Level(zerolog.WarnLevel)
	next := &agent{t: a.t, host: a.host, dial: a.dial, dir: a.dir, store: a.store}
	if next.host == nil {
		next.host = libvirtd
	}
	for _, sub := range []string{"root", "state"} {
		must(a.t, os.MkdirAll(filepath.Join(a.dir, sub), 0o755))
	}
	var err error
	next.workers, err = proc.New(proc.Options{Dir: filepath.Join(a.dir, "workers"), Name: uuid.NewSHA1(uuid.NameSpaceOID, []byte(a.dir)).String(), Log: zerolog.Nop()})
	must(a.t, err)
	next.domains, err = domain.OpenRegistry(domain.Options{Dir: filepath.Join(a.dir, "state"), Owner: domain.Owner{UID: -1, GID: -1}, Name: "test", Log: zerolog.Nop()})
	must(a.t, err)
	must(a.t, next.domains.AddRoot(filepath.Join(a.dir, "root")))
	storage := storageops.New(storageops.Options{Domains: next.domains, Workers: next.workers, TrashFor: time.Hour, Log: zerolog.Nop()})
	next.libvirt = virt.Open(virt.Options{Socket: next.host.Socket, Log: log})
	next.vms = vmops.New(vmops.Options{
		Libvirt: next.libvirt, Volumes: storage.VMVolumes(), Log: log,
		Hold:  func(what string, locks []tasks.Lock) (func(), error) { return next.Hold(what, locks) },
		Tasks: func() vmops.Tasks { return next.Engine }, Dial: next.dial, Unsafe: true, Mark: filepath.Join(a.dir, "maintenance"),
	})
	next.Engine = tasks.New(tasks.Options{Store: next.store, Verbs: next.vms.Verbs(), Log: zerolog.Nop()})
	next.vms.Recall()
	must(a.t, next.Start(nil))
	return next
}

func (a *agent) close() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(a.t, a.Close(ctx))
	a.vms.Close()
	a.libvirt.Close()
	must(a.t, a.workers.Close())
	a.domains.Close()
}

// crash is the agent that is started after this one has died; of what was being written nothing is left.
func (a *agent) crash() *agent {
	a.t.Helper()
	left := a.store.Crash(func() bool { return false })
	a.close()
	return (&agent{t: a.t, host: a.host, dial: a.dial, dir: a.dir, store: left}).open()
}

// atCommit calls f before the nth change is written, and before each after it; f's error is its answer. It returns the number
// of changes so far.
func (a *agent) atCommit(n int64, f func() error) *atomic.Int64 {
	var count atomic.Int64
	a.store.OnCommit = func(store.Change) error {
		if count.Add(1) >= n {
			return f()
		}
		return nil
	}
	return &count
}

// call answers a verb that makes no task.
func (a *agent) call(verb string, params map[string]any) (any, error) {
	a.t.Helper()
	raw, err := json.Marshal(params)
	must(a.t, err)
	for _, c := range a.vms.Calls() {
		if c.Name == verb {
			return c.Answer(a.t.Context(), raw)
		}
	}
	a.t.Fatalf("there is no verb %s", verb)
	return nil, nil
}

// stats are those of the machine.
func (a *agent) stats() vmops.Stats {
	a.t.Helper()
	return a.statsOf(vmID)
}

func (a *agent) statsOf(vm string) vmops.Stats {
	a.t.Helper()
	v, err := a.call("VM.getStats", map[string]any{"vmID": vm})
	must(a.t, err)
	return v.([]vmops.Stats)[0]
}

// create starts a guest, or resumes it, and waits until it runs.
func (a *agent) create(g *vmtest.Guest, more map[string]any) {
	a.t.Helper()
	wake, stop := a.libvirt.Watch(g.UUID)
	defer stop()
	params := map[string]any{"xml": g.XML()}
	for k, v := range more {
		params[k] = v
	}
	_, err := a.call("VM.create", map[string]any{"vmID": g.UUID, "vmParams": params})
	must(a.t, err)
	for {
		switch s := a.statsOf(g.UUID); s.Status {
		case "Up":
			return
		case "Down":
			a.t.Fatalf("the machine did not start: %s", s.ExitMessage)
		}
		select {
		case <-wake:
		case <-time.After(50 * time.Millisecond): // the agent hears of it before it is Up
		}
	}
}

// submit submits a verb under a new id.
func (a *agent) submit(verb string, params map[string]any) string {
	a.t.Helper()
	raw, err := json.Marshal(params)
	must(a.t, err)
	id, err := a.Submit(a.t.Context(), tasks.Submission{ID: uuid.NewString(), Verb: verb, Params: raw, Who: "tester"})
	must(a.t, err)
	return id
}

func (a *agent) ended(id string) tasks.View {
	a.t.Helper()
	_, err := a.Wait(a.t.Context(), id, tasks.Ended)
	must(a.t, err)
	v, err := a.Get(id)
	must(a.t, err)
	return v
}

// untouched fails if the volumes are not as newAgent has made them, or a job is left.
func (a *agent) untouched() {
	a.t.Helper()
	if j, err := a.libvirt.Job(a.t.Context(), vmID); err != nil || j.Active {
		a.t.Errorf("libvirt's job: %v, %v", j, err)
	}
	for img, vol := range map[string]string{imgMem: volMem, imgCnf: volCnf} {
		data, err := os.ReadFile(a.path(img, vol))
		must(a.t, err)
		if len(data) != 64<<20 || strings.Trim(string(data), "\x00") != "" {
			a.t.Errorf("volume %s is not empty as before: %d bytes", vol, len(data))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
