package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vdsm-agent/internal/access"
	"vdsm-agent/internal/code"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/stream"
	"vdsm-agent/rpc/wire"

	"github.com/rs/zerolog"
	"github.com/sourcegraph/jsonrpc2"
)

// Options are what a Server needs.
type Options struct {
	Log zerolog.Logger
	// DrainFor is how long Serve waits at its end for the answers of what is being done; 0 = 5 s.
	DrainFor time.Duration
	// Connections is how many clients may be connected to each listener, and PerAddress how many of them from one address (all
	// of a unix socket's come from one); 0 = any number.
	Connections, PerAddress int
	// Observer is told what clients do; nil = nobody is.
	Observer Observer
}

// Server answers calls. It is made before anything else of the agent, so that whoever asks why the start takes long gets
// an answer: until SetReady every call is answered with 99 and the text of SetStatus. Its methods may be called from
// any goroutine.
type Server struct {
	log      zerolog.Logger
	drainFor time.Duration
	limits   [2]int                 // Connections, PerAddress
	status   atomic.Pointer[string] // nil = ready
	events   hub
	observer Observer
	unknown  func(code.Code, time.Duration) // tells of a call of no method

	mu       sync.RWMutex
	methods  map[string]*Method // by name and by alias
	document json.RawMessage    // of them; nil = not made yet
}

// New makes a server that is starting, and has two methods: rpc.methods and rpc.discover, which describe all.
func New(o Options) *Server {
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.DrainFor == 0 {
		o.DrainFor = 5 * time.Second
	}
	s := &Server{log: o.Log, drainFor: o.DrainFor, limits: [2]int{o.Connections, o.PerAddress}, methods: map[string]*Method{}}
	s.observer, s.unknown = o.Observer, o.Observer.Method(noMethod)
	s.events = hub{log: o.Log, listeners: map[*connection]*listener{}}
	s.SetStatus("the agent is starting")
	s.Handle([]Method{
		with(Method{
			Name: "rpc.methods", Role: access.Observe, Ours: true, Result: []wire.Method{},
			Doc: "List what can be called, for command lines.",
		}, func(context.Context, *Request, param.None) (any, error) { return s.list(), nil }),
		with(Method{
			Name: "rpc.discover", Role: access.Observe, Ours: true, Result: map[string]any{},
			Doc: "Answer the OpenRPC document of what can be called.",
		}, func(context.Context, *Request, param.None) (any, error) { return answered(s.discover()) }),
	})
	return s
}

// Handle adds methods. It panics on a name that is taken, and on a method that does nothing, says nothing of itself or needs no
// role, since that is a defect of the program.
func (s *Server) Handle(methods []Method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range methods {
		m.told = s.observer.Method(m.Name)
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			if _, taken := s.methods[name]; taken || name == "" || m.Handle == nil || m.Doc == "" || m.Role == access.None {
				panic("method " + name + " is registered twice, does nothing, or lacks its doc or its role")
			}
			s.methods[name] = &m
		}
	}
	s.document = nil
}

// Feed tells clients what happens to the tasks of e from now on.
func (s *Server) Feed(e Engine) { s.events.begin(e) }

// SetStatus says what the agent is doing before it is ready: one sentence, with how far it is.
func (s *Server) SetStatus(text string) { s.status.Store(&text) }

// SetReady lets calls through.
func (s *Server) SetReady() { s.status.Store(nil) }

// list is the answer of rpc.methods, by name.
func (s *Server) list() []wire.Method {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := []wire.Method{}
	for _, name := range slices.Sorted(maps.Keys(s.methods)) {
		if m := s.methods[name]; m.Name == name {
			out = append(out, m.describe())
		}
	}
	return out
}

// Serve answers every client that connects to l, by way of t, until ctx ends; then it stops accepting, answers what is being
// done as far as that ends within DrainFor, closes every connection and returns nil. It closes l. An error means that l is broken.
func (s *Server) Serve(ctx context.Context, l net.Listener, t Transport) error {
	ctx, stop := context.WithCancel(ctx)
	closed := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = l.Close() // it is not listened to any more, which is all that counts
	})
	var clients sync.WaitGroup
	seats := seats{most: s.limits[0], each: s.limits[1], byAddress: map[string]int{}, log: s.log}
	defer clients.Wait()
	defer unhook()
	defer stop()
	for {
		conn, err := l.Accept()
		switch {
		case err == nil && !seats.take(conn.RemoteAddr()):
			s.observer.TurnedAway(t.Name())
			turnAway(conn)
		case err == nil:
			clients.Go(func() {
				defer seats.free(conn.RemoteAddr())
				s.open(ctx, conn, t)
			})
		case ctx.Err() != nil:
			<-closed // its path is gone, too
			return nil
		case exhausted(err):
			s.log.Error().Err(err).Msg("no client can connect now; existing connections go on")
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			_ = l.Close() // the error that counts is err
			return fmt.Errorf("no client can connect any more: %w", err)
		}
	}
}

// turnAway closes a connection that gets no other answer, by a reset: the engine's client notices no other end.
func turnAway(conn net.Conn) {
	if socket, ok := conn.(*net.TCPConn); ok {
		_ = socket.SetLinger(0) // it is closed at any rate
	}
	_ = conn.Close() // nothing was written
}

// exhausted says whether an error of accept passes.
func exhausted(err error) bool {
	for _, passing := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// open makes a peer of a connection, and answers it until it is gone or ctx ends.
func (s *Server) open(ctx context.Context, conn net.Conn, t Transport) {
	defer s.observer.Connected(t.Name())()
	f, p, err := t.Open(ctx, conn)
	if err != nil {
		s.log.Warn().Err(err).Stringer("from", conn.RemoteAddr()).Msg("a client could not connect")
		_ = conn.Close() // the error that counts is err
		return
	}
	s.ServeMessages(ctx, f, p)
}

// ServeMessages answers one peer of any transport until it is gone or ctx ends.
func (s *Server) ServeMessages(ctx context.Context, f stream.Framing, p Peer) {
	log := s.log.With().Str("who", p.Name).Logger()
	log.Info().Stringer("role", p.Role).Msg("client connected")
	st := stream.New(f)
	c := &connection{server: s, serving: ctx, peer: p, log: log, stream: st}
	if source, ok := f.(stream.EventSource); ok {
		c.asksByItself = true
		source.OnEvents(func(wanted bool) { s.events.change(c, func(l *listener) { l.wanted = wanted }) })
	}
	defer s.events.leave(c)
	conn := jsonrpc2.NewConn(context.WithoutCancel(ctx), st, c, jsonrpc2.SetLogger(protocolLog{log}))
	select {
	case <-conn.DisconnectNotify():
	case <-ctx.Done():
		limit, end := context.WithTimeout(context.WithoutCancel(ctx), s.drainFor)
		if err := st.Drain(limit); errors.Is(err, context.DeadlineExceeded) {
			log.Warn().Msg("the agent shuts down before everything that this client asked was answered")
		}
		end()
		_ = conn.Close() // it may have ended meanwhile
	}
	switch cause := st.Cause(); {
	case errors.Is(cause, io.EOF), errors.Is(cause, stream.ErrClosed):
		log.Info().Msg("client disconnected")
	default:
		log.Warn().Err(cause).Msg("the connection was given up")
	}
}

// protocolLog takes what jsonrpc2 has to say.
type protocolLog struct{ log zerolog.Logger }

func (l protocolLog) Printf(format string, v ...any) { l.log.Warn().Msgf(format, v...) }

// answer calls a method. A panic in it is a defect that is logged and answered; the agent goes on.
func (s *Server) answer(ctx context.Context, m *Method, r *Request) (raw json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error().Str("method", m.Name).Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).Msg("a verb has a defect")
			err = code.Errorf(code.InternalError, "%s has met a defect of the agent; please report it with what the agent's log says of it", m.Name)
		}
	}()
	if r.Params, err = m.named(r.Params); err != nil {
		return nil, err
	}
	result, err := m.Handle(ctx, r)
	if err != nil {
		return nil, err
	}
	if raw, encoded := result.(json.RawMessage); encoded && len(raw) > 0 {
		return raw, nil
	} else if encoded || result == nil {
		result = true
	}
	if raw, err = json.Marshal(result); err != nil {
		return nil, code.Errorf(code.InternalError, "%s was carried out, but its answer cannot be written as JSON: %w", m.Name, err)
	}
	return raw, nil
}

// find returns the method of that name, or says why it cannot be called.
func (s *Server) find(name string) (*Method, error) {
	if status := s.status.Load(); status != nil {
		return nil, code.Errorf(code.RecoveryInProgress, "Recovering from crash or Initializing: %s", *status)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m, ok := s.methods[name]; ok {
		return m, nil
	}
	const most = 100
	if len(name) > most {
		name = name[:most] + "..."
	}
	return nil, code.Errorf(code.MethodNotFound, "there is no verb %q; rpc.methods lists all", name)
}
