package stomp

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"vdsm-agent/rpc/stream"
)

// Java says whether a client is treated as the one in oVirt's engine, vdsm-jsonrpc-java 1.7.4. That client reads 1024 bytes at a
// time and looks for one frame in them: a second one that came with it is stuck until more bytes come, and from then on each
// answer is one message late. Over TLS it unwraps one record each time it wakes up, which may be a second later.
//
// So it gets one frame at a time, in one write, with all that there is to say to one subscription as one JSON array; a pause
// before the next; and frames that do not fit in a read together with another. A client that is not it gets none of that.
type Java string

// The ways to treat a client.
const (
	// Auto finds out: only the engine's client sends a SEND without content-type, or a CONNECT with a host.
	Auto   Java = ""
	Always Java = "always"
	Never  Java = "never"
)

// Times and sizes of what that client is given.
const (
	// LostConnect is when a client that has subscribed and neither connected nor asked anything is told that it is connected:
	// over plain TCP that client may lose its CONNECT before it is sent, and then waits for the answer for 20 s.
	LostConnect = 200 * time.Millisecond
	// Settle is how long after CONNECTED the first event is sent if the client says nothing before: both in one read would be
	// too much.
	Settle = 100 * time.Millisecond
	// Pause is the least time between two frames, and Collect the time in which answers gather.
	Pause   = 5 * time.Millisecond
	Collect = 3 * time.Millisecond
	// LeastBody is the size to which bodies are padded, with spaces: two frames never fit in one read.
	LeastBody = 1025

	// lostBeat is the heart-beat that such a client would have got: the engine asks for 15 s.
	lostBeat = 15 * time.Second
	// beatsToFrame is after how many heart-beats a frame must come: after 1023 the client's buffer is full of them, and it
	// hears nothing any more.
	beatsToFrame = 900
)

// looksLikeJava says whether only the engine's client sends such a frame.
func looksLikeJava(f *Frame) bool {
	switch f.Command {
	case "CONNECT":
		_, there := f.Lookup("host")
		return there
	case "SEND":
		_, there := f.Lookup(contentType)
		return !there
	}
	return false
}

// connectLost answers the CONNECT that the client has lost. Python's client, and any over TLS, loses none.
func (s *Session) connectLost() {
	s.mu.Lock()
	lost := !s.connected && !s.asked && !s.secure && s.java != Never && !s.closed
	if !s.connected && !lost {
		s.after(&s.settling, Settle, s.settle) // it will not connect: it needs no answer
	}
	s.mu.Unlock()
	if lost {
		if err := s.greet(lostBeat, 0); err != nil {
			_ = s.conn.Close() // the reader meets that, and says so
		}
	}
}

// gather waits until the client has read the last frame, and for other answers to go with this one.
func (w *wire) gather() {
	w.lock <- struct{}{}
	since := time.Since(w.last)
	<-w.lock
	<-time.After(max(Collect, Pause-since))
}

// pause waits until the client has read the last frame. The caller holds lock.
func (w *wire) pause() {
	if left := Pause - time.Since(w.last); w.paced.Load() && left > 0 {
		<-time.After(left)
	}
}

// writeJava writes one frame for each subscription. A client that has lost its SUBSCRIBE is answered all the same: it does not
// look at the subscription.
func (s *Session) writeJava(all []stream.Outgoing) error {
	var order []sub
	texts := map[sub][][][]byte{}
	for _, m := range all {
		to := s.subscriptions(m.Route)
		if len(to) == 0 && isReply(m.Route) {
			to = []sub{{m.Route, m.Route}}
		}
		for _, one := range to {
			if texts[one] == nil {
				order = append(order, one)
			}
			texts[one] = append(texts[one], m.Body)
		}
	}
	for _, to := range order {
		if err := s.out.message(to, padded(merge(texts[to]))); err != nil {
			return err
		}
	}
	return nil
}

// isReply says whether a route is a reply-to that fits in a frame's headers.
func isReply(route string) bool {
	return route != "" && route != stream.EventRoute && route != stream.RefusalRoute && len(escape(route)) <= MaxName
}

// padded adds spaces behind a JSON text, which parsers skip.
func padded(body [][]byte) [][]byte {
	if missing := LeastBody - size(body); missing > 0 {
		return append(slices.Clip(body), bytes.Repeat([]byte{' '}, missing))
	}
	return body
}

// merge makes one JSON array of several texts; the elements of those that are arrays are elements of it. One alone stays as it is.
func merge(texts [][][]byte) [][]byte {
	if len(texts) == 1 {
		return texts[0]
	}
	out := [][]byte{{'['}}
	for i, text := range texts {
		if i > 0 {
			out = append(out, []byte{','})
		}
		out = append(out, elements(text)...)
	}
	return append(out, []byte{']'})
}

// elements is what stands between the brackets of an array, and any other text as it is.
func elements(text [][]byte) [][]byte {
	first, last := text[0], text[len(text)-1]
	if first[0] != '[' {
		return text
	}
	if len(text) == 1 {
		return [][]byte{first[1 : len(first)-1]}
	}
	inner := append([][]byte{first[1:]}, text[1:len(text)-1]...)
	return append(inner, last[:len(last)-1])
}

// alive is an event that means nothing.
func alive() [][]byte {
	return padded([][]byte{fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"|agent|alive|no_id","params":{"notify_time":%d}}`, stream.NotifyTime())})
}
