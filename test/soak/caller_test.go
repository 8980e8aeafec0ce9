package soak

import (
	"encoding/binary"
	"math/rand/v2"

	"vdsm-agent/rpc/client"

	"github.com/google/uuid"
)

// caller is one client, with a connection and a chance of its own.
type caller struct {
	soak   *soak
	conn   *client.Client // nil = lost
	source *rand.ChaCha8
	chance *rand.Rand
}

// caller makes the nth client.
func (s *soak) caller(n uint64) *caller {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], s.seed)
	binary.LittleEndian.PutUint64(key[8:], n)
	source := rand.NewChaCha8(key)
	return &caller{soak: s, source: source, chance: rand.New(source)}
}

// connect returns the connection, made anew if the last one was lost.
func (c *caller) connect(t *task) *client.Client {
	if c.conn == nil {
		conn, err := c.soak.agent.dial(c.soak.ctx)
		if err != nil {
			c.soak.fail(t, "the daemon cannot be connected to: %v", err)
		}
		c.conn = conn
	}
	return c.conn
}

// id makes a new id.
func (c *caller) id() string {
	return uuid.Must(uuid.NewRandomFromReader(c.source)).String()
}

// percent is true in n of 100 cases.
func (c *caller) percent(n int) bool { return c.chance.IntN(100) < n }

// pick picks one of a list.
func pick[T any](c *caller, list []T) T { return list[c.chance.IntN(len(list))] }
