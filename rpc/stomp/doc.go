// Package stomp speaks STOMP 1.2 as oVirt's engine and vdsm's Python client do: frames, the session of one connection, and what
// the engine's client cannot bear (java.go). A Session is one more stream.Framing, so verbs know nothing of it.
//
// It is no broker: a client reaches the agent and nobody else, and gets the answers to its own requests, and events. It knows no
// verb, no certificate and no role. It may be imported by rpc/listen, rpc/client and tests.
package stomp
