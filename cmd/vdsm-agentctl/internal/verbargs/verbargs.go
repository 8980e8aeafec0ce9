// Package verbargs makes the parameters of a call from key=value words and a JSON file, and checks them against what the
// verb takes. It neither knows the daemon nor calls anything. Only the command line imports it.
//
// The value after "key:=" is JSON. The value after "key=" is a string, unless the verb's parameter is a number, a
// boolean, a list or an object: then it is JSON too, but the quotes of a lone string may be left out where one is taken.
package verbargs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vdsm-agent/internal/param"
)

// Params are the parameters of a call.
type Params map[string]json.RawMessage

// Set adds words such as "size=1073741824" to the parameters, over what a file gave. Errors name the word: it is not of
// that form, the parameter does not exist or is given twice, or the value is not what the parameter takes.
func (p Params) Set(words []string, takes []param.Field) error {
	seen := map[string]bool{}
	for _, word := range words {
		key, value, found := strings.Cut(word, "=")
		key, isJSON := strings.CutSuffix(key, ":")
		if !found || key == "" {
			return fmt.Errorf("%q is neither key=value nor key:=JSON", word)
		}
		if seen[key] {
			return fmt.Errorf("parameter %q is given twice", key)
		}
		seen[key] = true
		field, known := find(takes, key)
		if !known {
			return unknown(key, takes)
		}
		raw, err := encode(field, value, isJSON)
		if err != nil {
			return err
		}
		p[key] = raw
	}
	return nil
}

// Check refuses parameters that the verb does not take, and names those that it needs and that are not there.
func (p Params) Check(takes []param.Field) error {
	for _, key := range slices.Sorted(maps.Keys(p)) {
		if _, known := find(takes, key); !known {
			return unknown(key, takes)
		}
	}
	var missing []string
	for _, f := range takes {
		if _, given := p[f.Name]; !given && !f.Optional {
			missing = append(missing, f.Name)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("parameter %q is missing", missing[0])
	}
	return fmt.Errorf("parameters are missing: %s", strings.Join(missing, ", "))
}

// Default gives the parameter a value if the verb takes it and it was not given.
func (p Params) Default(key, value string, takes []param.Field) {
	if _, given := p[key]; given {
		return
	}
	if _, known := find(takes, key); known {
		p[key] = quote(value)
	}
}

func encode(f param.Field, value string, isJSON bool) (json.RawMessage, error) {
	kind := kindOf(f.Type)
	valid := json.Valid([]byte(value))
	switch {
	case isJSON && !valid:
		return nil, fmt.Errorf("parameter %q: %s is not JSON; strings need quotes after :=", f.Name, short(value))
	case isJSON, kind != text && kind != boolean && valid && kind.fits(value):
		return json.RawMessage(value), nil
	case kind == text, kind == either:
		return quote(value), nil
	case kind == boolean && (strings.EqualFold(value, "true") || strings.EqualFold(value, "false")):
		return json.RawMessage(strings.ToLower(value)), nil
	}
	return nil, fmt.Errorf("parameter %q: %s is not %s", f.Name, short(value), kind)
}

// kind is what JSON a parameter takes, as a person says it.
type kind string

const (
	text    kind = "a string"
	boolean kind = "true or false"
	number  kind = "a number"
	list    kind = `a list; write it as JSON, such as ["a","b"]`
	object  kind = `an object; write it as JSON, such as {"key":"value"}`
	either  kind = "an object or a string" // types that decode themselves
)

// kindOf reads the type words of param.Describe.
func kindOf(typeName string) kind {
	switch {
	case typeName == "bool":
		return boolean
	case typeName == "struct", typeName == "interface", typeName == "ptr":
		return either
	case typeName == "seconds", strings.HasPrefix(typeName, "int"), strings.HasPrefix(typeName, "uint"), strings.HasPrefix(typeName, "float"):
		return number
	case typeName == "slice", typeName == "array":
		return list
	case typeName == "map":
		return object
	}
	return text
}

// TypeWord is what a help text calls the parameter's type.
func TypeWord(f param.Field) string {
	switch k := kindOf(f.Type); {
	case f.Type == "seconds", k == text:
		return f.Type
	case k == boolean:
		return "boolean"
	case k == number:
		return "number"
	case k == list:
		return "list"
	}
	return "object"
}

// fits says whether valid JSON is of the kind.
func (k kind) fits(value string) bool {
	first := strings.TrimSpace(value)[0]
	switch k {
	case list:
		return first == '['
	case object:
		return first == '{'
	case number:
		return first == '-' || first >= '0' && first <= '9'
	}
	return true
}

func find(takes []param.Field, key string) (param.Field, bool) {
	i := slices.IndexFunc(takes, func(f param.Field) bool { return f.Name == key })
	if i < 0 {
		return param.Field{}, false
	}
	return takes[i], true
}

func unknown(key string, takes []param.Field) error {
	var names []string
	for _, f := range takes {
		names = append(names, f.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no parameter %q; this verb takes none", key)
	}
	return fmt.Errorf("there is no parameter %q; this verb takes %s", key, strings.Join(names, ", "))
}

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string always marshals
	return b
}

func short(value string) string {
	const most = 40
	if r := []rune(value); len(r) > most {
		value = string(r[:most]) + "…"
	}
	return fmt.Sprintf("%q", value)
}
