// Package agent wires the daemon together and gives it its life: the order of start, readiness, shutdown. It has no logic of
// any verb. Only cmd/vdsm-agentd and end-to-end tests import it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"vdsm-agent/agent/config"
	"vdsm-agent/hostops"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
	"vdsm-agent/metrics"
	"vdsm-agent/rpc"
	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/client"
	"vdsm-agent/storageops"
	"vdsm-agent/storageops/domain"
	"vdsm-agent/systemd"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/store"
	"vdsm-agent/tasks/tasktest/mock"
	"vdsm-agent/vmops"
	"vdsm-agent/vmops/virt"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// StoreFile is the name of the store in the state directory.
const StoreFile = "tasks.db"

const (
	leftoverWait = 2 * time.Second  // for all that a former run left (G13)
	claimWait    = 5 * time.Second  // for the claims of all domains
	shutdownWait = 10 * time.Second // for all that runs
)

// Run is the daemon: it returns when ctx has ended and everything is quiet, or with the reason why it cannot start. Work that
// is under way when ctx ends goes on at the next start.
func Run(ctx context.Context, c config.Config, log zerolog.Logger) (err error) {
	lock, err := lockState(c.StateDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	settings := newSettings(c, log)
	service := systemd.New(log)
	// The sockets open first, so that whoever asks why the start takes long gets an answer.
	figures := metrics.New()
	server := rpc.New(rpc.Options{Log: log, Connections: c.Connections, PerAddress: c.PerAddress, Observer: figures.Server()})
	doors, err := open(ctx, c, server, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, doors.close()) }()

	endMetrics, err := serveMetrics(ctx, c, settings, figures)
	if err != nil {
		return err
	}
	defer endMetrics()

	p, err := start(ctx, settings, server, service, figures, log)
	if err != nil {
		return err
	}
	service.Ready(busy(p.engine.Queue()))
	following, unfollow := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() {
		settings.follow(following, func() {
			service.Reloading("reading the configuration again")
			settings.reload(p.engine)
			service.Ready(busy(p.engine.Queue()))
		})
	})
	defer follower.Wait()
	defer unfollow()
	log.Info().Strs("sockets", doors.names()).Str("state", c.StateDir).Str("workers", p.workers.Mode()).Msg("ready")
	select {
	case <-ctx.Done():
		log.Info().Msg("shutting down; unfinished tasks go on at the next start")
	case err = <-doors.broken:
	}
	service.Stopping("shutting down; unfinished tasks go on at the next start")
	return errors.Join(err, p.stop())
}

// parts are what runs, in the order in which it was started.
type parts struct {
	store   *store.SQLite
	workers *proc.Manager
	domains *domain.Registry
	libvirt *virt.Client
	vms     *vmops.VMs
	engine  *tasks.Engine
}

// start brings everything up (G13): load, end what a former run left, go on with each task, accept work.
func start(ctx context.Context, s *settings, server *rpc.Server, service *systemd.Service, figures *metrics.Metrics, log zerolog.Logger) (p *parts, err error) {
	p = &parts{}
	c := s.current()
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	step := func(text string) {
		server.SetStatus(text)
		service.Starting(text)
	}
	watched, err := service.Watchdog()
	if err != nil {
		return p, err
	}
	name, err := identity(c.StatePath("agent-id"))
	if err != nil {
		return p, err
	}
	step("opening the store")
	observed := figures.Store()
	err = patiently(store.ErrInUse, func() (err error) {
		p.store, err = store.Open(c.StatePath(StoreFile), store.Options{Log: log, Observer: observed})
		return err
	})
	if err != nil {
		p.store = nil
		return p, err
	}
	step("ending what a former run left")
	if p.workers, err = proc.New(proc.Options{Dir: c.StatePath("workers"), Name: name, Log: log}); err != nil {
		p.workers = nil
		return p, err
	}
	left, err := leftovers(ctx, p.workers, log)
	if err != nil {
		return p, err
	}
	step("opening the storage domains")
	if p.domains, err = openDomains(c, name, log); err != nil {
		return p, err
	}
	storage := storageops.New(storageops.Options{
		Domains: p.domains, Workers: p.workers, TrashFor: c.TrashFor, MountWait: c.MountWait, Log: log,
	})
	// Claimed now, so that another agent on the same domain is told at its start, not at its first task.
	claiming, cancel := context.WithTimeout(ctx, claimWait)
	defer cancel()
	storage.Claim(claiming)
	if c.Libvirt != "" {
		p.libvirt = virt.Open(virt.Options{Socket: c.Libvirt, Log: log})
	}
	p.vms = vmops.New(vmops.Options{
		Libvirt: p.libvirt, Volumes: storage.VMVolumes(), Log: log,
		Hold:  func(what string, locks []tasks.Lock) (func(), error) { return p.engine.Hold(what, locks) },
		Tasks: func() vmops.Tasks { return p.engine },
		Dial: func(ctx context.Context, address string) (*client.Client, error) {
			t, err := certs.Client(c.TLS.Files, c.TLS.CheckName)
			if err != nil {
				return nil, err
			}
			return client.DialTLS(ctx, address, t)
		},
		Unsafe: c.MigrateUnsafe, Mark: c.StatePath("maintenance"),
	})
	verbs := verbs(storage, p.vms)
	if c.Mock {
		verbs = append(verbs, mock.Verbs(mock.NewWorld())...)
	}
	p.engine = tasks.New(tasks.Options{
		Store: p.store, Verbs: verbs, Log: log, Limits: c.Limits, QueueLimit: c.QueueLimit, Tuning: c.Tuning,
		Loading: func(done, total int) {
			step(fmt.Sprintf("recovering the tasks: %d of %d are read", done, total))
		},
		Observer: figures.Tasks(verbs), Passing: systemd.NewInhibitor(log).Hold,
		Pulse: tasks.Pulse{Every: watched, Beat: func(q tasks.Queue) { service.Alive(busy(q)) }},
	})
	p.vms.Recall()
	step("recovering the tasks")
	if err := p.engine.Start(left); err != nil {
		return p, err
	}
	figures.Look(sources(s, p.engine, storage))
	server.Handle(rpc.Methods(p.engine, slices.Concat(calls(storage, p.vms), s.calls(), metricsCalls(figures))))
	server.Feed(p.engine)
	server.SetReady()
	return p, nil
}

// busy is what systemctl status shows of a daemon that works.
func busy(q tasks.Queue) string {
	running := 0
	for _, class := range q.Classes {
		running += class.Running
	}
	return fmt.Sprintf("ready: %d tasks run, %d wait", running, q.Waiting)
}

// verbs are those that run as tasks.
func verbs(storage *storageops.Storage, vms *vmops.VMs) []*tasks.Verb {
	return slices.Concat(storage.Verbs(), vms.Verbs())
}

// calls are the verbs that are answered at once.
func calls(storage *storageops.Storage, vms *vmops.VMs) []tasks.Call {
	host := hostops.New(hostops.Options{Domains: func(ctx context.Context) map[string]hostops.Domain {
		out := map[string]hostops.Domain{}
		for id, h := range storage.Health(ctx) {
			out[id] = hostops.Domain{Version: h.Version, Code: int(code.Of(h.Err)), Delay: h.Delay, Claimed: h.Err == nil}
		}
		return out
	}})
	return slices.Concat(storage.Calls(), host.Calls(), vms.Calls())
}

// stop ends everything, last started first, and leaves nothing alive.
func (p *parts) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
	defer cancel()
	var errs []error
	if p.engine != nil {
		errs = append(errs, p.engine.Close(ctx))
	}
	if p.vms != nil {
		p.vms.Close()
	}
	if p.libvirt != nil {
		p.libvirt.Close()
	}
	if p.workers != nil {
		errs = append(errs, p.workers.Close())
	}
	if p.domains != nil {
		p.domains.Close()
	}
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	return errors.Join(errs...)
}

// leftovers waits a short time for the workers of a former run, which were sent SIGKILL, and returns those that are not
// proven gone, by task.
func leftovers(ctx context.Context, m *proc.Manager, log zerolog.Logger) (map[string][]tasks.Worker, error) {
	found, err := m.Leftovers()
	if err != nil {
		return nil, fmt.Errorf("what a former run left cannot be found out: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, leftoverWait)
	defer cancel()
	left := map[string][]tasks.Worker{}
	for _, w := range found {
		select {
		case <-w.Gone():
			log.Info().Str("task", w.Task()).Msg("a worker of the former run is gone")
		case <-wait.Done():
			log.Error().Str("task", w.Task()).Strs("holders", w.Describe()).Msg("a worker of the former run does not end; its task waits for it")
			left[w.Task()] = append(left[w.Task()], w)
		}
	}
	return left, nil
}

// openDomains opens the registry, with the agent's own root. On a first start there is one local domain in it.
func openDomains(c config.Config, name string, log zerolog.Logger) (*domain.Registry, error) {
	own := c.StatePath("domains")
	_, err := os.Stat(own)
	first := errors.Is(err, fs.ErrNotExist)
	if first {
		if err := os.MkdirAll(own, 0o755); err != nil {
			return nil, fmt.Errorf("the directory of the agent's own domain cannot be made: %w", err)
		}
	}
	r, err := domain.OpenRegistry(domain.Options{Dir: c.StateDir, Mounts: c.Mounts, Owner: c.Owner, Name: name, Log: log})
	if err != nil {
		return nil, err
	}
	for _, root := range append([]string{own}, c.Roots...) {
		err := r.AddRoot(root)
		var hangs *domain.NoAnswerError
		if errors.As(err, &hangs) {
			log.Error().Err(err).Msg("a storage root does not answer; its tasks wait for it")
			continue
		}
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("the root %s cannot be used: %w", root, err)
		}
	}
	if len(r.List()) == 0 {
		spec := domain.CreateSpec{UUID: uuid.NewString(), Path: own, Name: "local", Type: domain.TypeLocalFS, Class: "Data", Version: domain.Version}
		if _, err := r.Create(spec); err != nil {
			r.Close()
			return nil, fmt.Errorf("the local domain cannot be made: %w", err)
		}
		log.Info().Str("domain", spec.UUID).Str("root", own).Msg("made a local storage domain")
	}
	return r, nil
}

// identity is the agent's name for as long as its state directory lives.
func identity(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err == nil {
		if id, err := uuid.ParseBytes(b[:min(len(b), 36)]); err == nil {
			return id.String(), nil
		}
		return "", fmt.Errorf("%s does not hold the agent's id; restore it, or remove it when no worker of this agent is alive", file)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	id := uuid.NewString()
	temporary := file + ".new"
	if err := os.WriteFile(temporary, []byte(id+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("the agent's id cannot be written: %w", err)
	}
	return id, os.Rename(temporary, file)
}
