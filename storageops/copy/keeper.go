package copy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"vdsm-agent/internal/code"
	"vdsm-agent/internal/proc"
)

// keeper is the agent's end of the worker that holds the destination open. It is asked one thing at a time. A nil keeper can
// be killed.
type keeper struct {
	w   *proc.Worker
	ask *os.File // its standard input; it ends when this is closed
	teller
	lines chan string // what it answers; closed when it is gone
	err   error       // how it ended; read after lines was closed
	hello hello
}

// hello is the first thing that the worker says.
type hello struct {
	SourceDirect bool          `json:"sourceDirect"` // O_DIRECT is accepted
	DestDirect   bool          `json:"destDirect"`
	DestSize     int64         `json:"destSize"`
	Sources      []Fingerprint `json:"sources"`
}

// workerArgv starts the running binary once more. Not by name: the file may have been replaced by an upgrade.
func workerArgv(args ...string) []string {
	return append([]string{"/proc/self/exe", WorkerCommand}, args...)
}

// openKeeper starts the keeper; when it returns nil the destination is open.
func (r *run) openKeeper(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stdin, ask, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	args := []string{modeKeep, r.spec.Dest.Path, r.spec.Source.Path}
	for _, l := range r.spec.Source.Backing {
		args = append(args, l.Path)
	}
	k := &keeper{ask: ask, teller: teller{to: ask}, lines: make(chan string, 16)}
	k.w, err = r.env.Start(ctx, proc.Spec{Argv: workerArgv(args...), Stdin: stdin, Stdout: &lineWriter{to: k.lines}, IdleIO: true})
	if err != nil {
		ask.Close()
		return err
	}
	go func() {
		k.err = k.w.Wait()
		close(k.lines)
	}()
	r.keeper = k
	line, err := k.next()
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(line), &k.hello)
}

// cacheModes are qemu-img's -T and -t.
func (k *keeper) cacheModes() (source, dest string) {
	mode := map[bool]string{true: "none", false: "writeback"}
	return mode[k.hello.SourceDirect], mode[k.hello.DestDirect]
}

// next waits for a line; an error if the worker ended instead.
func (k *keeper) next() (string, error) {
	line, ok := <-k.lines
	if ok {
		return line, nil
	}
	if k.err == nil {
		return "", code.Errorf(code.InternalError, "the worker that keeps the destination open ended too early")
	}
	return "", k.err
}

// command sends one command and hands each line of the answer but the last, which is answerOK, to each.
func (k *keeper) command(each func(line string) error, words ...string) error {
	if _, err := k.ask.WriteString(strings.Join(words, " ") + "\n"); err != nil {
		// It is gone, or going: how it ended says more than a broken pipe.
		for range k.lines {
		}
		if k.err != nil {
			return k.err
		}
		return err
	}
	for {
		line, err := k.next()
		if err != nil || line == answerOK {
			return err
		}
		if each == nil {
			return code.Errorf(code.InternalError, "a worker answered %q to %q", line, words[0])
		}
		if err := each(line); err != nil {
			return err
		}
	}
}

// sync is fdatasync of the destination. An error whose ExitError has exitSync means that data was lost.
func (k *keeper) sync() error { return k.command(nil, cmdSync) }

// truncate sets the destination's length.
func (k *keeper) truncate(size int64) error { return k.command(nil, cmdTruncate, fmt.Sprint(size)) }

// stat looks at the sources again.
func (k *keeper) stat() (now []Fingerprint, err error) {
	err = k.command(func(line string) error { return json.Unmarshal([]byte(line), &now) }, cmdStat)
	return now, err
}

// close lets the worker end and waits until it is gone.
func (k *keeper) close() error {
	k.ask.Close()
	for range k.lines {
	}
	return k.err
}

// kill ends the worker whatever it does and waits until it is gone. After close it does nothing.
func (k *keeper) kill() {
	if k == nil {
		return
	}
	k.w.Kill()
	_ = k.close() // killed: how it ended is known
}

// lineWriter cuts what is written to it into lines.
type lineWriter struct {
	to   chan<- string
	rest []byte
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.to <- string(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
}
