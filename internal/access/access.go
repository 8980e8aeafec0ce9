// Package access is who may do what: the roles, and nothing else yet. A verb declares the role that it needs, a connection has
// the role of its peer. It knows no verb and no connection. Any package that declares verbs may import it.
package access

// Role is what a peer may do. Each role may do what those before it may.
type Role int

// The roles. The zero value may do nothing, so that nobody gets a right by being forgotten.
const (
	None    Role = iota
	Observe      // look at everything, change nothing
	Operate      // what an engine does: tasks, flows, domains, volumes, machines
	Admin        // also what concerns the agent and all of its clients
)

var words = [...]string{None: "none", Observe: "observe", Operate: "operate", Admin: "admin"}

// String is the role's word in the configuration and in messages.
func (r Role) String() string { return words[r] }
