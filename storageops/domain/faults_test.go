package domain

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// errFault is what an injected fault answers.
var errFault = errors.New("injected fault")

// faults is a tree's step: it fails the nth change, and, unless it is once, all after it: the process died there.
type faults struct {
	nth  int // 0 = never
	once bool
	seen int
	hit  bool
	book *book
}

func (f *faults) step(op, name string) error {
	f.seen++
	if f.nth > 0 && (f.seen == f.nth || f.seen > f.nth && !f.once) {
		f.hit = true
		return errFault
	}
	if f.book != nil {
		f.book.note(op, name)
	}
	return nil
}

// inject gives the domain's tree, which nobody else uses now, the faults.
func (x *fixture) inject(f *faults) { x.d.t.step = f.step }

// book keeps count of what is not on stable storage yet, and of rules of order that were broken.
type book struct {
	dirty   map[string]bool // files, and directories with names that were not synced
	unnamed map[string]bool // entries of the trash whose manifest has its name only in memory
	broken  []string
}

func newBook() *book { return &book{dirty: make(map[string]bool), unnamed: make(map[string]bool)} }

func (b *book) note(op, name string) {
	from, to, _ := strings.Cut(name, " to ")
	switch op {
	case "sync":
		delete(b.dirty, name)
		delete(b.unnamed, name)
	case "create", "make", "remove":
		for n := range b.dirty {
			if op == "remove" && (n == name || strings.HasPrefix(n, name+"/")) {
				delete(b.dirty, n)
			}
		}
		if op == "remove" && strings.HasPrefix(name, trashDir+"/") {
			for n := range b.dirty {
				if strings.HasPrefix(n, imagesDir) {
					b.broken = append(b.broken, name+" is removed before "+n+" is synced")
				}
			}
		}
		b.dirty[path.Dir(name)] = true
		if op == "create" {
			b.dirty[name] = true
		}
	case "link":
		b.dirty[path.Dir(to)] = true
	case "rename":
		if b.dirty[from] {
			b.broken = append(b.broken, "renamed before it was synced: "+name)
		}
		b.ordered(from, to)
		b.dirty[path.Dir(from)], b.dirty[path.Dir(to)] = true, true
	case "write", "truncate", "allocate", "set the mode of", "set the owner of", "set the time of":
		b.dirty[name] = true
	default:
		b.broken = append(b.broken, "unknown operation "+op)
	}
}

// ordered: what goes into the trash may go only when the manifest that names it, and every directory above that, are on
// stable storage.
func (b *book) ordered(from, to string) {
	if path.Base(to) == manifestName {
		b.unnamed[path.Dir(to)] = true
	}
	task, ok := strings.CutPrefix(to, trashDir+"/")
	if !ok || !strings.HasPrefix(from, imagesDir) {
		return
	}
	entry := path.Join(trashDir, strings.Split(task, "/")[0])
	if b.dirty[agentDir] || b.dirty[trashDir] || b.unnamed[entry] {
		b.broken = append(b.broken, "the manifest is not synced when "+from+" moves")
	}
}

// unsynced is what would be lost in a power failure now. Temporary files may be.
func (b *book) unsynced() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(b.dirty)), func(n string) bool {
		return n == tmpDir || strings.HasPrefix(n, tmpDir+"/")
	})
}

// operation is one change of a domain, with how to undo it.
type operation struct {
	name   string
	setup  func(x *fixture)
	do     func(d *Domain) error
	undo   func(d *Domain) error // nil = has none
	done   func(error) bool      // nil, or what a repetition may answer when all was done before
	times  bool                  // modification times must be as before, too
	onDisk bool                  // too large for memory

	memory string // where it runs unless onDisk
}

// TestDyingAnywhere runs every operation and stops it at its 1st change, then at its 2nd, … until it runs clean. Then
// it is repeated, or undone, in a new process or in the same one, and the whole domain is compared with what it is
// after an undisturbed run.
func TestDyingAnywhere(t *testing.T) {
	memory := memoryFS(t)
	for _, op := range operations {
		op.memory = memory
		t.Run(op.name, func(t *testing.T) {
			before, after, changes := cleanRun(t, op)
			if changes == 0 || before == after {
				t.Fatal("the operation changes nothing; the test is worth nothing")
			}
			for n := 1; n <= changes; n++ {
				for _, once := range []bool{false, true} {
					dieAndRepeat(t, op, n, once, after)
					if op.undo != nil {
						dieAndUndo(t, op, n, once, before)
					}
				}
			}
			if op.undo != nil {
				dieInUndo(t, op, before)
			}
			t.Logf("%d changes", changes)
		})
	}
}

func (op operation) fixture(t *testing.T) *fixture {
	t.Helper()
	var x *fixture
	if op.onDisk {
		x = newFixture(t)
	} else {
		x = newFixtureInMemory(t, op.memory)
	}
	if op.setup != nil {
		op.setup(x)
	}
	return x
}

func cleanRun(t *testing.T, op operation) (before, after string, changes int) {
	x := op.fixture(t)
	before = x.snapshot(op.times)
	f := &faults{book: newBook()}
	x.inject(f)
	x.must(op.do(x.d))
	f.check(t, "after it")
	changes = f.seen
	after = x.snapshot(op.times)
	if err := op.do(x.d); err != nil && (op.done == nil || !op.done(err)) {
		t.Fatalf("a repetition after success: %v", err)
	}
	equal(t, "after a repetition", x.snapshot(op.times), after)
	if op.undo != nil {
		for range 2 {
			x.must(op.undo(x.d))
			f.check(t, "after the undo")
			equal(t, "undone", x.snapshot(op.times), before)
		}
	}
	return before, after, changes
}

func (f *faults) check(t *testing.T, when string) {
	t.Helper()
	if left := f.book.unsynced(); len(left) > 0 {
		t.Fatalf("%s, not synced: %s", when, strings.Join(left, ", "))
	}
	if len(f.book.broken) > 0 {
		t.Fatalf("%s: %s", when, strings.Join(f.book.broken, "; "))
	}
}

// die runs the operation up to its nth change; once = the process lives on after the error.
func die(t *testing.T, op operation, n int, once bool) *fixture {
	t.Helper()
	x := op.fixture(t)
	f := &faults{nth: n, once: once}
	x.inject(f)
	err := op.do(x.d)
	if !f.hit || !errors.Is(err, errFault) {
		t.Fatalf("change %d: fault hit %t, answer %v", n, f.hit, err)
	}
	if !once {
		x.restart()
	}
	x.inject(&faults{})
	return x
}

func dieAndRepeat(t *testing.T, op operation, n int, once bool, after string) {
	t.Helper()
	x := die(t, op, n, once)
	f := &faults{book: newBook()}
	x.inject(f)
	if err := op.do(x.d); err != nil && (op.done == nil || !op.done(err)) {
		t.Fatalf("died at change %d (once %t), repetition: %v", n, once, err)
	}
	f.check(t, "after the repetition")
	x.restart() // clears what may be left in tmp
	equal(t, "repeated", x.snapshot(op.times), after)
	x.reg.Close()
}

func dieAndUndo(t *testing.T, op operation, n int, once bool, before string) {
	t.Helper()
	x := die(t, op, n, once)
	f := &faults{book: newBook()}
	x.inject(f)
	if err := op.undo(x.d); err != nil {
		t.Fatalf("died at change %d (once %t), undo: %v", n, once, err)
	}
	f.check(t, "after the undo")
	x.restart()
	equal(t, "undone", x.snapshot(op.times), before)
	x.reg.Close()
}

// dieInUndo stops the undo of a finished operation at every change and undoes again.
func dieInUndo(t *testing.T, op operation, before string) {
	t.Helper()
	for n := 1; ; n++ {
		for _, once := range []bool{false, true} {
			x := op.fixture(t)
			x.must(op.do(x.d))
			f := &faults{nth: n, once: once}
			x.inject(f)
			err := op.undo(x.d)
			if !f.hit {
				x.must(err)
				return
			}
			if !errors.Is(err, errFault) {
				t.Fatalf("change %d of the undo: answer %v", n, err)
			}
			if !once {
				x.restart()
			}
			x.inject(&faults{})
			if err := op.undo(x.d); err != nil {
				t.Fatalf("undo died at change %d (once %t), repetition: %v", n, once, err)
			}
			x.restart()
			equal(t, "undone", x.snapshot(op.times), before)
			x.reg.Close()
		}
	}
}
