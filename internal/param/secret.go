package param

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Hidden stands where a secret's value was.
const Hidden = "********"

// Secret says whether a parameter of this name is never shown: passwords, tickets and the like, and VDSM's names that begin with _X_.
func Secret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"password", "passwd", "passphrase", "secret"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return strings.HasPrefix(name, "_x_") || name == "ticket" || name == "otp" || name == "token"
}

// Shown is what can be shown of a JSON value: secrets in its objects, at any depth, are hidden, and what else it has is as it was,
// with the keys of an object that had a secret in order. What is not JSON is not shown at all.
func Shown(raw json.RawMessage) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return json.RawMessage(`"` + Hidden + `"`)
	}
	if !hide(value) {
		return raw
	}
	shown, err := json.Marshal(value)
	if err != nil {
		return json.RawMessage(`"` + Hidden + `"`)
	}
	return shown
}

// hide hides the secrets in a value, and says whether there were any.
func hide(value any) (hidden bool) {
	switch v := value.(type) {
	case map[string]any:
		for name := range v {
			if Secret(name) {
				v[name], hidden = Hidden, true
			} else {
				hidden = hide(v[name]) || hidden
			}
		}
	case []any:
		for _, one := range v {
			hidden = hide(one) || hidden
		}
	}
	return hidden
}
