package copy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vdsm-agent/storageops/nbd"
)

// WorkerCommand is the hidden command of the agent's binary that main answers with WorkerMain.
const WorkerCommand = "copy-worker"

// What a worker is for: the first argument.
const (
	modeKeep     = "keep"
	modeZero     = "zero"
	modeAllocate = "allocate"
	modeServe    = "serve"
	modeSparsify = "sparsify"
)

// What a keeper is asked, and how it answers when it is done.
const (
	cmdSync     = "sync"
	cmdTruncate = "truncate"
	cmdStat     = "stat"
	cmdCopy     = "copy"
	cmdLimit    = "limit"
	answerOK    = "ok"

	lineTotal    = "total"
	lineProgress = "progress"
	lineReached  = "reached"
)

// How a worker ends, besides 0.
const (
	exitFailed = 1 // the last line of its standard error says why
	exitUsage  = 2
	exitSync   = 3 // a sync failed: what was written since the one before it may be lost
)

// WorkerMain is the life of a worker: main calls it with what follows WorkerCommand and exits with its result.
//
//	keep DEST SOURCE [LAYER…]   opens DEST, says hello (JSON), then obeys lines on its standard input until that ends:
//	    sync                    fdatasync of DEST
//	    truncate SIZE           sets DEST's length
//	    stat                    answers the fingerprints of SOURCE and LAYERs (JSON)
//	    copy {json}             copies SOURCE to DEST, both raw; see rawCopy
//	zero FILE FROM DONE         writes zeros over all that is allocated from FROM on; DONE bytes of work are before it
//	allocate FILE FROM DONE TO  allocates blocks
//	sparsify FILE ALIGN FROM DONE   frees what reads as zeros in FILE, an image that a server shows on descriptor 3
//	serve NODE LAYER…           becomes that server: qemu-nbd with the image NODE, which waits on the socket that is descriptor 3
//
// All but the server take the line "limit BYTES" on their standard input at any time and do not answer it: so many bytes per second may be
// moved from now on, 0 = any number.
//
// Each command of a keeper is answered with the line "ok". The long ones (copy, zero, allocate, sparsify) also print "total BYTES" first,
// "progress BYTES" from time to time, when they are limited once a second or so, and "reached OFFSET BYTES" when all before OFFSET is on stable storage. Any failure
// ends the worker.
func WorkerMain(args []string) int {
	out := &answers{w: os.Stdout}
	err := serve(args, os.Stdin, out)
	if err = errors.Join(err, out.err); err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, strings.ReplaceAll(err.Error(), "\n", "; "))
	var lost *syncError
	switch {
	case errors.As(err, &lost):
		return exitSync
	case errors.Is(err, errUsage):
		return exitUsage
	}
	return exitFailed
}

func serve(args []string, in io.Reader, out *answers) error {
	if len(args) >= 3 && args[0] == modeServe {
		return serveImage(args[1], args[2:])
	}
	told := listen(in)
	if len(args) >= 3 && args[0] == modeKeep {
		return keep(args[1], args[2:], told, out)
	}
	if len(args) >= 4 {
		var numbers []int64
		for _, a := range args[2:] {
			n, err := strconv.ParseInt(a, 10, 64)
			if err != nil || n < 0 {
				return fmt.Errorf("%w: %q", errUsage, args)
			}
			numbers = append(numbers, n)
		}
		switch {
		case args[0] == modeZero && len(numbers) == 2:
			return zero(args[1], numbers[0], numbers[1], &told.pace, out)
		case args[0] == modeSparsify && len(numbers) == 3 && numbers[0] > 0:
			return sparsify(args[1], numbers[0], numbers[1], numbers[2], &told.pace, out)
		case args[0] == modeAllocate && len(numbers) == 3:
			return allocate(args[1], numbers[0], numbers[1], numbers[2], &told.pace, out)
		}
	}
	return fmt.Errorf("%w: %q", errUsage, args)
}

// orders are what a worker is told on its standard input.
type orders struct {
	pace     pacer       // has the limit that was told last
	commands chan string // the other lines; closed at the end
	err      error       // of reading; read after commands was closed
}

// listen reads all the time, so that a limit takes effect while a command is carried out.
func listen(in io.Reader) *orders {
	o := &orders{pace: pacer{span: limitedTime}, commands: make(chan string)}
	go func() {
		defer close(o.commands)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			var limit int64
			if scan(lines.Text(), cmdLimit, &limit) {
				o.pace.limit.Store(limit)
				continue
			}
			o.commands <- lines.Text()
		}
		o.err = lines.Err()
	}()
	return o
}

// syncError is a sync that failed.
type syncError struct{ err error }

func (e *syncError) Error() string {
	return "what was written could not be put on stable storage: " + e.err.Error()
}
func (e *syncError) Unwrap() error { return e.err }

// fdatasync syncs f's data and what is needed to read it. It is not repeated after an error.
//
// After a success it is called once more, which costs nothing, since nothing is left to do. XFS looks whether it was shut down
// only at the beginning: a file system that is shut down (its log cannot be written any more) while the call is under way
// drops what was to be written and lets the call succeed. The second call meets the shutdown. Found by TestPowerCut.
func fdatasync(f *os.File) error {
	for range 2 {
		if err := ignoringEINTR(func() error { return unix.Fdatasync(int(f.Fd())) }); err != nil {
			return &syncError{err}
		}
	}
	return nil
}

// syncOf is fdatasync of f, for a mover.
func syncOf(f *os.File) func() error { return func() error { return fdatasync(f) } }

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// kept is a destination that a keeper has open.
type kept interface {
	sync() error
	file() (*os.File, error) // an error if it is none
	Close() error
}

// keptFile is one that is a file.
type keptFile struct{ *os.File }

func (k keptFile) sync() error             { return fdatasync(k.File) }
func (k keptFile) file() (*os.File, error) { return k.File, nil }

// keptExport is one that a server shows. The server keeps it open, and tells each client that asks what became of what was written
// before. It may take one client at a time, so the keeper stays only as long as it asks.
type keptExport struct{ nbd.Address }

func (k keptExport) Close() error { return nil }
func (k keptExport) file() (*os.File, error) {
	return nil, fmt.Errorf("%w: %s is no file", errUsage, k.Address)
}

func (k keptExport) sync() error {
	c, err := k.Dial()
	if err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return errors.Join(&syncError{err}, c.Close())
	}
	return c.Close()
}

// openDest opens the destination and says how large it is, and whether it can be opened for O_DIRECT.
func openDest(path string) (k kept, size int64, direct bool, err error) {
	if nbd.IsAddress(path) {
		a, err := nbd.ParseAddress(path)
		if err != nil {
			return nil, 0, false, err
		}
		size, err := shownSize(a)
		return keptExport{a}, size, true, err
	}
	dst, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, false, err
	}
	st, err := dst.Stat()
	if err == nil {
		direct, err = takesDirect(path, os.O_RDWR)
	}
	if err != nil {
		dst.Close()
		return nil, 0, false, err
	}
	return keptFile{dst}, st.Size(), direct, nil
}

func shownSize(a nbd.Address) (int64, error) {
	c, err := a.Dial()
	if err != nil {
		return 0, err
	}
	return c.Size(), c.Close()
}

// keep is the keeper: what it does, it does for one Run.
func keep(dest string, sources []string, told *orders, out *answers) error {
	h := hello{SourceDirect: true}
	dst, size, direct, err := openDest(dest)
	if err != nil {
		return err
	}
	defer func() { _ = dst.Close() }() // what counts was synced
	h.DestSize, h.DestDirect = size, direct
	for _, s := range sources {
		direct, err := takesDirect(s, os.O_RDONLY)
		if err != nil {
			return err
		}
		h.SourceDirect = h.SourceDirect && direct
	}
	if h.Sources, err = fingerprints(sources); err != nil {
		return err
	}
	out.json(h)
	for line := range told.commands {
		if err := obey(line, dst, sources, h, &told.pace, out); err != nil {
			return err
		}
		if out.line(answerOK); out.err != nil {
			return nil // WorkerMain tells
		}
	}
	return told.err
}

func obey(line string, dst kept, sources []string, h hello, pace *pacer, out *answers) error {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case cmdSync:
		return dst.sync()
	case cmdTruncate:
		size, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: %q", errUsage, line)
		}
		f, err := dst.file()
		if err != nil {
			return err
		}
		return f.Truncate(size)
	case cmdStat:
		now, err := fingerprints(sources)
		out.json(now)
		return err
	case cmdCopy:
		var c rawCopy
		if err := json.Unmarshal([]byte(rest), &c); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		f, err := dst.file()
		if err != nil {
			return err
		}
		return c.run(f, sources[0], h, pace, out)
	}
	return fmt.Errorf("%w: %q", errUsage, line)
}

// takesDirect says whether a file can be opened for O_DIRECT. What a server shows has no cache here.
func takesDirect(path string, flags int) (bool, error) {
	if nbd.IsAddress(path) {
		return true, nil
	}
	f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func fingerprints(paths []string) ([]Fingerprint, error) {
	var all []Fingerprint
	for _, p := range paths {
		if nbd.IsAddress(p) {
			a, err := nbd.ParseAddress(p)
			if err != nil {
				return nil, err
			}
			size, err := shownSize(a)
			if err != nil {
				return nil, err
			}
			all = append(all, Fingerprint{Size: size})
			continue
		}
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		all = append(all, Fingerprint{Size: st.Size(), Mtime: st.ModTime().UnixNano()})
	}
	return all, nil
}
