// Package access is who may do what: the roles, and the policy that gives them to peers. A verb declares the role that it needs, a connection has
// the role of its peer. It knows no verb and no connection. Any package that declares verbs may import it.
package access

import "fmt"

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

// Parse reads a role's word.
func Parse(word string) (Role, error) {
	for role, w := range words {
		if w == word {
			return Role(role), nil
		}
	}
	return None, fmt.Errorf("%q is not a role: none, observe, operate or admin", word)
}
