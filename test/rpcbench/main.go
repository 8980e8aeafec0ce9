// Command rpcbench measures a daemon over STOMP, beside a bare server in Go that answers the same bytes without looking at what
// it is asked: the limit of this machine. Both run in processes of their own and are measured by turns. Part of `make bench`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vdsm-agent/rpc/certs"
	"vdsm-agent/rpc/certs/certstest"
	"vdsm-agent/test/benchkit"

	"github.com/google/uuid"
)

// Bounds.
const (
	leastStatuses      = 2000.0 // answers a second, one connection, 1,000 tasks
	leastStatusesRatio = 0.6    // of the bare server's
	leastStatus        = 20000.0
	mostP99Ratio       = 10.0
	mostPaced          = 20.0 // ms a round
	mostIdle           = 20.0 // MiB
)

const (
	rounds   = 5
	measured = 2 * time.Second // each round
	idle     = 200             // connections
)

func main() {
	var err error
	switch {
	case len(os.Args) == 6 && os.Args[1] == "bare":
		err = bare(certs.Files{Cert: os.Args[2], Key: os.Args[3], CA: os.Args[4]}, os.Args[5])
	case len(os.Args) == 3:
		err = bench(context.Background(), os.Args[1], os.Args[2])
	default:
		err = errors.New("usage: rpcbench AGENTD DIR")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rpcbench:", err)
		os.Exit(1)
	}
}

// world is what is measured.
type world struct {
	ctx    context.Context
	daemon *benchkit.Daemon
	files  certs.Files // of the client
	server certs.Files
	dir    string
	ids    []string
}

const (
	tlsAddress   = "127.0.0.1:54397"
	plainAddress = "127.0.0.1:54396"
)

func bench(ctx context.Context, agentd, dir string) (err error) {
	w := &world{ctx: ctx, dir: dir}
	ca, err := certstest.NewAuthority("bench")
	if err != nil {
		return err
	}
	if w.server, err = ca.Write(dir, "host", time.Hour); err != nil {
		return err
	}
	if w.files, err = ca.Write(dir, "engine", time.Hour); err != nil {
		return err
	}
	w.daemon, err = benchkit.Start(ctx, agentd, filepath.Join(dir, "rpcbench"),
		"[debug]", "mock_verb = true", "[tasks]", "queue_limit = 0", "light_limit = 0", "copy_limit = 0", "[rpc]", "connections = 0", "per_address = 0",
		"[tls]", "address = "+tlsAddress, "cert = "+w.server.Cert, "key = "+w.server.Key, "ca = "+w.server.CA,
		"[plain]", "address = "+plainAddress, "role = operate")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.daemon.Stop()) }()
	if err := w.idle(); err != nil {
		return err
	}
	if err := w.fill(1000); err != nil {
		return err
	}
	for _, secure := range []bool{true, false} {
		name := map[bool]string{true: "TLS", false: "plain"}[secure]
		if err := errors.Join(w.statuses(name, secure), w.status(name, secure)); err != nil {
			return err
		}
	}
	if err := w.paced(); err != nil {
		return err
	}
	if err := w.fill(9000); err != nil {
		return err
	}
	return w.underLoad()
}

// fill makes tasks that have finished and are not cleared, as an engine's.
func (w *world) fill(n int) error {
	for range n {
		id := uuid.NewString()
		params := map[string]any{"steps": []any{}, "tag": "spm", "taskID": id}
		if err := w.daemon.Call(w.ctx, "Mock.run", params, nil); err != nil {
			return err
		}
		w.ids = append(w.ids, id)
	}
	for _, id := range w.ids[len(w.ids)-n:] {
		if err := w.daemon.Call(w.ctx, "Task.wait", map[string]any{"taskID": id}, nil); err != nil {
			return err
		}
	}
	return nil
}

const getStatuses = `{"jsonrpc":"2.0","id":"1","method":"Host.getAllTasksStatuses"}`

func getStatus(id string) string {
	return `{"jsonrpc":"2.0","id":"1","method":"Task.getStatus","params":{"taskID":"` + id + `"}}`
}

// answerTo is what the daemon answers, for the bare server.
func (w *world) answerTo(request string) (string, error) {
	c, err := w.dial(tlsAddress, true)
	if err != nil {
		return "", err
	}
	defer c.close()
	body, err := c.ask(request)
	if err == nil && !strings.Contains(string(body), `"result"`) {
		err = fmt.Errorf("the daemon answers %.200s", body)
	}
	return string(body), err
}

func (w *world) statuses(name string, secure bool) error {
	p, err := w.byTurns(getStatuses, secure, 1)
	if err != nil {
		return err
	}
	rate := benchkit.Median(p.Ours)
	fmt.Printf("Host.getAllTasksStatuses, 1,000 tasks, one connection, %s: %.0f/s (%s), of the bare server's %.0f/s: %.2f (%s)\n",
		name, rate, benchkit.AtLeast(rate, leastStatuses), benchkit.Median(p.Base), p.Ratio(), benchkit.AtLeast(p.Ratio(), leastStatusesRatio))
	return nil
}

func (w *world) status(name string, secure bool) error {
	p, err := w.byTurns(getStatus(w.ids[0]), secure, 16)
	if err != nil {
		return err
	}
	rate := benchkit.Median(p.Ours)
	fmt.Printf("Task.getStatus, 16 connections, %s: %.0f/s (%s), of the bare server's %.0f/s: %.2f\n",
		name, rate, benchkit.AtLeast(rate, leastStatus), benchkit.Median(p.Base), p.Ratio())
	return nil
}

// byTurns measures answers a second over some connections, the bare server's and the daemon's.
func (w *world) byTurns(request string, secure bool, conns int) (benchkit.Pair, error) {
	answer, err := w.answerTo(request)
	if err != nil {
		return benchkit.Pair{}, err
	}
	b, err := w.startBare(answer, "")
	if err != nil {
		return benchkit.Pair{}, err
	}
	defer b.stop()
	ours := plainAddress
	if secure {
		ours = tlsAddress
	}
	return benchkit.ByTurns(rounds,
		func() (float64, error) { return w.rate(b.address(secure), secure, request, conns) },
		func() (float64, error) { return w.rate(ours, secure, request, conns) })
}

// underLoad compares the slowest answers while others poll everything without pause.
func (w *world) underLoad() error {
	status, err := w.answerTo(getStatus(w.ids[0]))
	if err != nil {
		return err
	}
	statuses, err := w.answerTo(getStatuses)
	if err != nil {
		return err
	}
	b, err := w.startBare(status, statuses)
	if err != nil {
		return err
	}
	defer b.stop()
	p, err := benchkit.ByTurns(rounds,
		func() (float64, error) { return w.p99(b.address(true)) },
		func() (float64, error) { return w.p99(tlsAddress) })
	if err != nil {
		return err
	}
	fmt.Printf("p99 of Task.getStatus while 10 connections poll 10,000 tasks, TLS: %.1f ms, bare server %.1f ms: %.2f (%s)\n",
		benchkit.Median(p.Ours), benchkit.Median(p.Base), p.Ratio(), benchkit.AtMost(p.Ratio(), mostP99Ratio))
	return nil
}

// paced measures rounds of 8 requests in flight on a connection that behaves as the engine's.
func (w *world) paced() error {
	var times []float64
	for _, secure := range []bool{true, false} {
		address := plainAddress
		if secure {
			address = tlsAddress
		}
		c, err := w.dialJava(address, secure)
		if err != nil {
			return err
		}
		times = times[:0]
		for range 200 {
			begun := time.Now()
			if err := c.round(8); err != nil {
				return err
			}
			times = append(times, benchkit.Millis(time.Since(begun)))
		}
		c.close()
		p50 := benchkit.Median(times)
		fmt.Printf("a paced connection, 8 requests in flight, %s: p50 %.1f ms a round (%s), p99 %.1f ms\n",
			map[bool]string{true: "TLS", false: "plain"}[secure], p50, benchkit.AtMost(p50, mostPaced), benchkit.Quantile(times, 0.99))
	}
	return nil
}

// idle measures what connections cost that do nothing.
func (w *world) idle() error {
	before, err := w.daemon.Resident()
	if err != nil {
		return err
	}
	for range idle {
		c, err := w.dial(tlsAddress, true)
		if err != nil {
			return err
		}
		defer c.close()
		if _, err := c.ask(`{"jsonrpc":"2.0","id":"1","method":"Host.ping2"}`); err != nil {
			return err
		}
	}
	after, err := w.daemon.Resident()
	fmt.Printf("%d idle connections over TLS: %.1f MiB (%s)\n", idle, after-before, benchkit.AtMost(after-before, mostIdle))
	return err
}
