package nbd

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ text, socket, export, why string }{
		{"nbd+unix:///?socket=/run/s", "/run/s", "", ""},
		{"nbd+unix:///an%20export?socket=/run/s", "/run/s", "an export", ""},
		{"nbd+unix:///%2Fa%2Fb?socket=%2Frun%2Fs", "/run/s", "/a/b", ""},
		{"nbd:unix:/run/s", "/run/s", "", ""},
		{"nbd:unix:/run/s:exportname=x:y", "/run/s", "x:y", ""},
		{"nbd://host/x", "", "", "no address"},
		{"nbd:host:10809", "", "", "no address"},
		{"nbd+unix://host/x?socket=/run/s", "", "", "names a host"},
		{"nbd+unix:///x", "", "", "has no socket"},
		{"nbd+unix:///x?socket=/a&socket=/b", "", "", "more than that"},
		{"nbd+unix:///x?socket=/a&tls-creds=b", "", "", "more than that"},
		{"nbd+unix:///x?socket=s", "", "", "absolute"},
		{"nbd+unix:///x?socket=/run/../s", "", "", "absolute"},
		{"nbd:unix:s", "", "", "absolute"},
		{"json:{}", "", "", "no address"},
	} {
		a, err := ParseAddress(c.text)
		switch {
		case c.why != "":
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%q: %+v, %v", c.text, a, err)
			}
		case err != nil || a != Address{c.socket, c.export}:
			t.Errorf("%q: %+v, %v", c.text, a, err)
		default:
			if again, err := ParseAddress(a.String()); err != nil || again != a {
				t.Errorf("%q is written as %q, which is %+v, %v", c.text, a, again, err)
			}
		}
	}
}

// talk is a server that greets, and then says to the first request what it is told to, whatever was asked.
func talk(t *testing.T, says ...any) *Conn {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { _ = server.Close() })
	be := binary.BigEndian
	answer := func(v any) {
		if err := binary.Write(server, be, v); err != nil {
			t.Errorf("the client does not listen: %v", err)
		}
	}
	read := func(n int) []byte {
		b := make([]byte, n)
		for at := 0; at < n; {
			m, err := server.Read(b[at:])
			if err != nil {
				return b
			}
			at += m
		}
		return b
	}
	go func() {
		answer(struct {
			A, B uint64
			C    uint16
		}{magicServer, magicOption, fixedNewStyle})
		read(4)
		for {
			head := read(16)
			option := be.Uint32(head[8:])
			read(int(be.Uint32(head[12:])))
			if option == optGo {
				info := be.AppendUint16(be.AppendUint64(be.AppendUint16(nil, infoExport), 1<<20), 0)
				answer(struct {
					M       uint64
					O, K, L uint32
				}{magicAnswer, option, repInfo, uint32(len(info))})
				answer(info)
			}
			answer(struct {
				M       uint64
				O, K, L uint32
			}{magicAnswer, option, repAck, 0})
			if option == optGo {
				break
			}
		}
		read(28)
		for _, s := range says {
			_ = binary.Write(server, be, s) // the client may have gone after a part of it
		}
		_ = server.Close()
	}()
	c, err := Open(client, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type chunkHead struct {
	Magic       uint32
	Flags, Kind uint16
	Cookie      uint64
	Length      uint32
}

// TestAServerThatIsWrong: whatever it says, the request ends with an error, and so does each one after it.
func TestAServerThatIsWrong(t *testing.T) {
	for name, says := range map[string][]any{
		"it goes":          nil,
		"no answer at all": {uint32(7)},
		"a request that nobody made": {struct {
			M, E uint32
			C    uint64
		}{magicSimple, 0, 99}},
		"a read in the old way": {struct {
			M, E uint32
			C    uint64
		}{magicSimple, 0, 1}},
		"data from elsewhere":         {chunkHead{magicChunk, chunkLast, chunkData, 1, 12}, uint64(1 << 30), uint32(0)},
		"data that is shorter than 8": {chunkHead{magicChunk, chunkLast, chunkData, 1, 4}, uint64(0)},
		"more data than was asked":    {chunkHead{magicChunk, chunkLast, chunkHole, 1, 12}, uint64(0), uint32(1 << 20)},
		"a chunk that is too large":   {chunkHead{magicChunk, chunkLast, chunkNone, 1, 1 << 30}},
		"a chunk of no known kind":    {chunkHead{magicChunk, chunkLast, 77, 1, 0}},
		"a status that nobody asked":  {chunkHead{magicChunk, chunkLast, chunkStatus, 1, 12}, uint32(0), uint64(0)},
	} {
		t.Run(name, func(t *testing.T) {
			c := talk(t, says...)
			if err := c.Read(make([]byte, 512), 0); err == nil {
				t.Error("it was believed")
			}
			if err := c.Flush(); err == nil {
				t.Error("the connection is used on")
			}
			_ = c.Close()
		})
	}
}

// TestAnErrorOfTheServer ends the request, and only that.
func TestAnErrorOfTheServer(t *testing.T) {
	text := "no room"
	c := talk(t, chunkHead{magicChunk, chunkLast, chunkError | 1, 1, uint32(6 + len(text))}, uint32(28), uint16(len(text)), []byte(text),
		struct {
			M, E uint32
			C    uint64
		}{magicSimple, 0, 2})
	if err := c.Read(make([]byte, 512), 0); err == nil || !strings.Contains(err.Error(), text) {
		t.Error(err)
	}
	_ = c.Close()
}
