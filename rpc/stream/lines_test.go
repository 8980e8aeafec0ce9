package stream

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// fromReader is a connection that only reads.
type fromReader struct {
	net.Conn
	io.Reader
}

func (f fromReader) Read(b []byte) (int, error) { return f.Reader.Read(b) }

func TestLinesReads(t *testing.T) {
	const most = 10_000
	long := strings.Repeat("x", most)
	cases := []struct {
		name, in string
		want     []string // "!" = too long
	}{
		{"one", "a\n", []string{"a"}},
		{"many", "a\nbb\nccc\n", []string{"a", "bb", "ccc"}},
		{"with carriage returns", "a\r\nb\r\n", []string{"a", "b"}},
		{"empty lines", "\n\r\n  \n\ta \n\n", []string{"a"}},
		{"the last without an end", "a\nb", []string{"a", "b"}},
		{"nothing", "", nil},
		{"longer than the buffer", long + "\na\n", []string{long, "a"}},
		{"exactly one too long", long + "x\na\n", []string{"!", "a"}},
		{"far too long", strings.Repeat(long, 50) + "\na\n", []string{"!", "a"}},
		{"too long, twice", strings.Repeat(long, 2) + "\n" + strings.Repeat(long, 3) + "\na\n", []string{"!", "!", "a"}},
		{"too long and cut off", strings.Repeat(long, 50), nil},
	}
	for _, c := range cases {
		for kind, reader := range map[string]io.Reader{"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in))} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				l := NewLines(fromReader{Reader: reader}, most)
				var got []string
				for {
					m, err := l.ReadMessage()
					if err == io.EOF {
						break
					}
					if errors.Is(err, ErrTooLong) {
						m.Body = []byte("!")
					} else if err != nil {
						t.Fatal(err)
					}
					got = append(got, string(m.Body))
				}
				if strings.Join(got, "|") != strings.Join(c.want, "|") {
					t.Errorf("got %.80q, want %.80q", got, c.want)
				}
			})
		}
	}
}

// TestLinesSkipsInBoundedMemory sends eight times the limit as one line.
func TestLinesSkipsInBoundedMemory(t *testing.T) {
	in := io.MultiReader(io.LimitReader(zeroes{}, 8*MaxMessage), strings.NewReader("\n[]\n"))
	l := NewLines(fromReader{Reader: in}, MaxMessage)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := l.ReadMessage(); !errors.Is(err, ErrTooLong) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 5*MaxMessage {
		t.Errorf("%d MiB were allocated on the way", used>>20)
	}
	if m, err := l.ReadMessage(); err != nil || string(m.Body) != "[]" {
		t.Errorf("the next message is %q, %v", m.Body, err)
	}
	if cap(l.long) > keepBuffer {
		t.Errorf("a buffer of %d bytes is kept", cap(l.long))
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestLinesGivesUp: a peer that reads slowly gets everything; one that reads nothing ends the write.
func TestLinesGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		defer server.Close()
		l := NewLines(server, MaxMessage)
		message := strings.Repeat("x", 99)
		read := make(chan string)
		go func() { // ten bytes at a time, each just before it would be given up
			var got []byte
			for len(got) < len(message)+1 {
				<-time.After(StallAfter - time.Second)
				piece := make([]byte, 10)
				n, err := client.Read(piece)
				if err != nil {
					break
				}
				got = append(got, piece[:n]...)
			}
			read <- string(got)
		}()
		if err := l.WriteMessages([]Outgoing{{Body: [][]byte{[]byte(message)}}}); err != nil {
			t.Errorf("a slow reader is given up: %v", err)
		}
		if got := <-read; got != message+"\n" {
			t.Errorf("it has read %q", got)
		}
		begun := time.Now()
		if err := l.WriteMessages([]Outgoing{{Body: [][]byte{[]byte(message)}}}); err == nil || !strings.Contains(err.Error(), "has read nothing") {
			t.Errorf("a write that nobody reads answers %v", err)
		}
		if took := time.Since(begun); took != StallAfter {
			t.Errorf("it was given up after %s", took)
		}
	})
}

func TestLinesListening(t *testing.T) {
	server, client := socketPair(t)
	l := NewLines(server, MaxMessage)
	if !l.Listening() {
		t.Error("an open peer does not listen")
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ReadMessage(); err != io.EOF {
		t.Fatal(err)
	}
	if !l.Listening() {
		t.Error("a peer that has ended its sending does not listen any more")
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Listening() {
		t.Error("a peer that is gone listens")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.Listening() {
		t.Error("a closed connection listens")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if NewLines(a, MaxMessage).Listening() {
		t.Error("what cannot tell listens")
	}
}

// socketPair is a connection over a unix socket.
func socketPair(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// TestNotifyTime: more than the engine's client takes for a small number, and it never goes back.
func TestNotifyTime(t *testing.T) {
	last := int64(1<<31 - 1)
	for range 1000 {
		now := NotifyTime()
		if now < last || now <= 1<<31-1 {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
}
