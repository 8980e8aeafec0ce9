// Package benchkit is what the programs of `make bench` share: a daemon under measurement, disks to copy, and the arithmetic of
// figures that are taken by turns on a busy machine. Only those programs import it.
package benchkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vdsm-agent/rpc/client"
)

// Daemon is a daemon under measurement, with a connection to it.
type Daemon struct {
	*client.Client
	Domain string        // its only storage domain
	Ready  time.Duration // from its exec to the first answer that is not "recovering"
	Worked time.Duration // on all processors, until then

	cmd    *exec.Cmd
	socket string
}

// startLimit is how long a daemon may take to answer before the measurement is given up.
const startLimit = time.Minute

// recovering is the code of every answer before the agent accepts work.
const recovering = 99

// Start runs the program agentd on a state directory, with the lines of its configuration, and returns when it accepts work.
// What it logs goes to a file beside the state, which is named if it does not start.
func Start(ctx context.Context, agentd, state string, config ...string) (*Daemon, error) {
	file, log := state+".conf", state+".log"
	if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	d := &Daemon{cmd: exec.CommandContext(ctx, agentd, "--state-dir", state, "--config", file), socket: filepath.Join(state, "api.sock")}
	d.cmd.Stderr = out
	begun := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := d.connect(ctx, begun); err != nil {
		return nil, errors.Join(fmt.Errorf("the daemon does not answer (its log is %s): %w", log, err), d.cmd.Process.Kill(), d.cmd.Wait())
	}
	return d, nil
}

// connect waits until the daemon accepts work.
func (d *Daemon) connect(ctx context.Context, begun time.Time) error {
	const pause = time.Millisecond // asking all the time would slow the start down
	for ; ; time.Sleep(pause) {
		c, err := client.Dial(ctx, d.socket)
		if err == nil {
			if d.Domain, err = domainOf(ctx, c); err == nil {
				d.Client, d.Ready = c, time.Since(begun)
				d.Worked, err = d.worked()
				return err
			}
			err = errors.Join(err, c.Close())
		}
		if took := time.Since(begun); took > startLimit {
			return err
		}
	}
}

// domainOf asks until the answer is not "recovering".
func domainOf(ctx context.Context, c *client.Client) (string, error) {
	for {
		var domains []string
		err := c.Call(ctx, "Host.getStorageDomains", nil, &domains)
		var refused *client.Error
		switch {
		case errors.As(err, &refused) && refused.Code == recovering:
			time.Sleep(time.Millisecond)
		case err != nil:
			return "", err
		case len(domains) == 0:
			return "", errors.New("the daemon has no storage domain")
		default:
			return domains[0], nil
		}
	}
}

// worked is how long the daemon's threads have run so far.
func (d *Daemon) worked() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, behind, _ := strings.Cut(string(text), ") ") // the program's name may have spaces
	fields := strings.Fields(behind)
	const user, system, tick = 11, 12, 10 * time.Millisecond // proc_pid_stat(5)
	var total time.Duration
	for _, at := range []int{user, system} {
		ticks, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ticks) * tick
	}
	return total, nil
}

// Dial makes one more connection.
func (d *Daemon) Dial(ctx context.Context) (*client.Client, error) { return client.Dial(ctx, d.socket) }

// Stop ends the daemon in order.
func (d *Daemon) Stop() error {
	return errors.Join(d.Client.Close(), d.cmd.Process.Signal(os.Interrupt), d.cmd.Wait())
}

// Kill ends the daemon as a crash does.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = d.cmd.Wait()     // killed: how it ended is known
	_ = d.Client.Close() // of a connection that is gone
	return nil
}

// Resident is how much memory the daemon has, in MiB.
func (d *Daemon) Resident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return float64(kib) / 1024, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the daemon has")
}
