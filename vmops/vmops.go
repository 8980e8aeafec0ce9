// Package vmops has the verbs of virtual machines: those that run as tasks as steps, those that are answered at once as calls. What a
// machine does is libvirt's to say, and is asked whenever it matters; kept in memory is only what libvirt forgets: how a machine
// ended, and that one is being started. It knows nothing about JSON-RPC.
//
// A machine of ours is transient: libvirt knows it as long as it runs. Those that others have defined are of interest only while they run.
//
// It may be imported by agent, and imports tasks, storageops, rpc/client (the agents of other hosts), vmops/virt and internal packages.
package vmops

import (
	"context"
	"sync"
	"time"

	"vdsm-agent/internal/code"
	"vdsm-agent/rpc/client"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/tasks"
	"vdsm-agent/vmops/virt"

	"github.com/rs/zerolog"
)

// Options are what the verbs need of the agent.
type Options struct {
	Libvirt *virt.Client // nil = none on this host: every verb of this package says so
	Volumes storageops.VMVolumes
	// Hold takes locks for what goes on after a verb was answered; see tasks.Engine.
	Hold func(what string, locks []tasks.Lock) (release func(), err error)
	// Tasks are the engine's, when there is one.
	Tasks func() Tasks
	// Dial connects to the agent of another host, "host:port". nil = machines cannot leave this host.
	Dial func(ctx context.Context, address string) (*client.Client, error)
	// Unsafe: machines leave whatever libvirt thinks of the storage that the hosts share.
	Unsafe bool
	// Mark is the file that is there while this host is in maintenance.
	Mark string
	Log  zerolog.Logger
}

// Tasks is what the verbs need of the task engine; *tasks.Engine says what each method promises.
type Tasks interface {
	List(f tasks.Filter) []tasks.Summary
	Get(id string) (tasks.View, error)
	Stop(id string, o tasks.StopOptions) error
	Wait(ctx context.Context, id string, until func(tasks.Summary) bool) (tasks.Summary, error)
	Summary(id string) (tasks.Summary, error)
	Submit(ctx context.Context, s tasks.Submission) (string, error)
	Refuse(d tasks.Drain)
	Accept()
}

// hypervisor is what the verbs need of libvirt; *virt.Client says what each answers.
type hypervisor interface {
	Watch(vm string) (wake <-chan struct{}, stop func())
	State(ctx context.Context, vm string) (virt.State, error)
	XML(ctx context.Context, vm string) (string, error)
	List(ctx context.Context) ([]virt.Stats, error)
	AllStats(ctx context.Context) ([]virt.Stats, error)
	StatsOf(ctx context.Context, vm string) (virt.Stats, error)
	Create(ctx context.Context, xml string, paused bool) error
	Restore(ctx context.Context, file string, place func(xml string) (string, error), paused bool) error
	Destroy(ctx context.Context, vm string, graceful bool) error
	Shutdown(ctx context.Context, vm string, reboot bool) error

	// What follows is asked by steps of tasks: s is the step that asks.

	Suspend(ctx context.Context, s *tasks.Scope, vm string) error
	Resume(ctx context.Context, s *tasks.Scope, vm string) error
	Freeze(ctx context.Context, s *tasks.Scope, vm string) error
	Thaw(ctx context.Context, s *tasks.Scope, vm string) error
	Snapshot(ctx context.Context, s *tasks.Scope, vm, xml string) error
	SnapshotMemory(ctx context.Context, s *tasks.Scope, vm, xml string) <-chan error
	Save(ctx context.Context, s *tasks.Scope, vm, file string) <-chan error
	Job(ctx context.Context, vm string) (virt.Job, error)
	AbortJob(ctx context.Context, s *tasks.Scope, vm string) error
	blockJobs
	Migrate(ctx context.Context, s *tasks.Scope, vm string, m virt.Migration) <-chan error
	SetBandwidth(ctx context.Context, vm string, mib uint64) error
	SetDowntime(ctx context.Context, vm string, most time.Duration) error
	PostCopy(ctx context.Context, s *tasks.Scope, vm string) error
	Remove(ctx context.Context, s *tasks.Scope, vm string) error
}

// volumes is what they need of storage; storageops.VMVolumes says what each answers.
type volumes interface {
	Locks(all ...storageops.VolumeID) []tasks.Lock
	Reach(ctx context.Context, s *tasks.Scope, v storageops.VolumeID) error
	DiskPath(v storageops.VolumeID) (string, error)
	Overlay(base, v storageops.VolumeID) (basePath, path string, err error)
	Plain(v storageops.VolumeID) (path string, shape domain.Shape, err error)
	Read(v storageops.VolumeID, most int64) ([]byte, error)
	Replace(s *tasks.Scope, v storageops.VolumeID, data []byte, shape domain.Shape) error
	Sync(s *tasks.Scope, v storageops.VolumeID) error
	merges
	replicas
}

// VMs are the machines of this host.
type VMs struct {
	hv      hypervisor // nil = no libvirt
	volumes volumes
	hold    func(what string, locks []tasks.Lock) (release func(), err error)
	tasks   func() Tasks
	crew    crew
	closed  closure
	peers   peers
	unsafe  bool
	log     zerolog.Logger

	ctx     context.Context //nolint:containedctx // ends with Close
	end     context.CancelFunc
	running sync.WaitGroup // machines that are being started

	mu        sync.Mutex
	machines  map[string]*machine
	dismissed dismissed
	awaited   map[string]chan struct{} // tasks that wait to be asked to go on
}

// New makes the verbs.
func New(o Options) *VMs {
	vms := newVMs(nil, o.Volumes, o.Log)
	vms.hold, vms.tasks, vms.unsafe = o.Hold, o.Tasks, o.Unsafe
	vms.peers, vms.crew, vms.closed = agents{o.Dial}, scopedTasks{o.Tasks}, &mark{file: o.Mark, tasks: o.Tasks}
	if o.Libvirt != nil {
		vms.hv = scoped{o.Libvirt}
		o.Libvirt.OnEnd(vms.ended)
	}
	return vms
}

func newVMs(hv hypervisor, v volumes, log zerolog.Logger) *VMs {
	vms := &VMs{hv: hv, volumes: v, log: log, machines: map[string]*machine{}, dismissed: dismissed{}, awaited: map[string]chan struct{}{}, closed: &mark{}}
	vms.ctx, vms.end = context.WithCancel(context.Background())
	return vms
}

// Close ends what goes on after its verb was answered. Libvirt goes on with what it was asked for.
func (vms *VMs) Close() {
	vms.end()
	vms.running.Wait()
}

// Verbs are those that run as tasks.
func (vms *VMs) Verbs() []*tasks.Verb {
	return []*tasks.Verb{vms.hibernate(), vms.snapshot(), vms.merge(), vms.migrate(), vms.replicate(), vms.enterMaintenance()}
}

// scoped is libvirt itself, which need not know the step.
type scoped struct{ *virt.Client }

func (l scoped) Suspend(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.Suspend(ctx, vm)
}

func (l scoped) Resume(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.Resume(ctx, vm)
}

func (l scoped) Freeze(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.Freeze(ctx, vm)
}

func (l scoped) Thaw(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.Thaw(ctx, vm)
}

func (l scoped) Snapshot(ctx context.Context, _ *tasks.Scope, vm, xml string) error {
	return l.Client.Snapshot(ctx, vm, xml)
}

func (l scoped) SnapshotMemory(ctx context.Context, _ *tasks.Scope, vm, xml string) <-chan error {
	return l.Client.SnapshotMemory(ctx, vm, xml)
}

func (l scoped) Save(ctx context.Context, _ *tasks.Scope, vm, file string) <-chan error {
	return l.Client.Save(ctx, vm, file)
}

func (l scoped) AbortJob(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.AbortJob(ctx, vm)
}

func (l scoped) Migrate(ctx context.Context, _ *tasks.Scope, vm string, m virt.Migration) <-chan error {
	return l.Client.Migrate(ctx, vm, m)
}

func (l scoped) PostCopy(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Client.PostCopy(ctx, vm)
}

func (l scoped) Remove(ctx context.Context, _ *tasks.Scope, vm string) error {
	return l.Destroy(ctx, vm, false)
}

// there refuses every verb on a host without libvirt.
func (vms *VMs) there() error {
	if vms.hv == nil {
		return code.Errorf(code.ResourceUnavailable,
			"this host is configured to have no virtual machines ([vm] libvirt = none)")
	}
	return nil
}

// vmLock is the lock of whatever is done with a machine.
func vmLock(vm string) tasks.Lock { return tasks.Lock{Key: "vm/" + vm, Exclusive: true} }
