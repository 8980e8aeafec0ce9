//go:build vm

package virt_test

import (
	"os"
	"testing"

	"vdsm-agent/internal/code"
	"vdsm-agent/vmops/virt"
	"vdsm-agent/vmops/vmtest"

	"github.com/rs/zerolog"
)

var host *vmtest.Host

func TestMain(m *testing.M) { os.Exit(vmtest.Run(m, func(h *vmtest.Host) { host = h })) }

const vmOne = "dddddddd-0000-4000-8000-000000000001"

func open(t *testing.T) *virt.Client {
	t.Helper()
	c := virt.Open(virt.Options{Socket: host.Socket, Log: zerolog.New(zerolog.NewTestWriter(t))})
	t.Cleanup(c.Close)
	return c
}

// TestLife: a machine is started, looked at, paused, continued and ended, and libvirtd is killed meanwhile.
func TestRealLife(t *testing.T) {
	c, ctx := open(t), t.Context()
	ended := make(chan virt.Ended, 4)
	c.OnEnd(func(vm string, how virt.Ended) {
		if vm == vmOne {
			ended <- how
		}
	})
	if _, err := c.State(ctx, vmOne); code.Of(err) != code.NoSuchVM || virt.Unreachable(err) {
		t.Fatalf("a machine that is not there: %v", err)
	}
	g := host.Guest(t, vmOne)
	must(t, c.Create(ctx, g.XML(), false))
	if err := c.Create(ctx, g.XML(), false); code.Of(err) != code.VMExists && !virt.Invalid(err) {
		t.Errorf("a second one: %v", err)
	}
	g.Counts(0)
	host.Kill()
	if _, err := c.State(ctx, vmOne); !virt.Unreachable(err) {
		t.Errorf("without libvirtd: %v", err)
	}
	wake, stop := c.Watch(vmOne)
	defer stop()
	must(t, host.Restart())
	<-wake
	must(t, c.Suspend(ctx, vmOne))
	if s, err := c.State(ctx, vmOne); err != nil || s.Phase != virt.Paused {
		t.Errorf("paused: %v, %v", s, err)
	}
	n := g.Count()
	must(t, c.Resume(ctx, vmOne))
	g.Counts(n)
	all, err := c.AllStats(ctx)
	if err != nil || len(all) != 1 || all[0].UUID != vmOne || len(all[0].Disks) != 1 || all[0].Disks[0].WriteBytes == 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := c.AbortJob(ctx, vmOne); !virt.Invalid(err) {
		t.Errorf("the abort of no job: %v", err)
	}
	must(t, c.Shutdown(ctx, vmOne, false))
	if how := <-ended; how != virt.EndedShutdown {
		t.Errorf("it ended %d", how)
	}
}

// TestHang: what libvirt does not answer is given up, and only that.
func TestRealHang(t *testing.T) {
	c, ctx := open(t), t.Context()
	if _, err := c.List(ctx); err != nil {
		t.Fatal(err)
	}
	host.Freeze()
	_, err := c.List(ctx)
	host.Thaw()
	if !virt.Unreachable(err) {
		t.Errorf("%v", err)
	}
	if _, err := c.List(ctx); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
