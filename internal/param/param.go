// Package param decodes the parameters of a verb from JSON into a struct and refuses what is missing or impossible by
// name. It accepts both the words of VDSM's schema and the integers that engines really send. Any package that
// declares a verb may import it; it knows no verb.
//
// A parameter is an exported field with a json tag. A `default:"…"` tag makes it optional and gives its value as it would
// stand on the command line (an empty one is the zero value). `doc:"…"` is its line in a help text.
package param

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"vdsm-agent/internal/code"
)

// Field describes one parameter, for help texts and schemas.
type Field struct {
	Name     string `json:"name"`
	Type     string `json:"type"` // a word for what JSON it takes, such as "string", "bool", "seconds", "slice", "COW|RAW"
	Optional bool   `json:"optional"`
	Default  string `json:"default"`
	Doc      string `json:"doc"`
}

// None is the parameter struct of a verb that takes none.
type None struct{}

// Strictness says what becomes of parameters that a verb does not know.
type Strictness bool

// VDSM's verbs ignore unknown parameters, because engines send some; our own refuse them.
const (
	Lenient Strictness = false
	Strict  Strictness = true
)

// Decode fills the struct that dst points to. Errors carry code 1000 and name the parameter; an absent or null raw
// counts as no parameters.
func Decode(raw json.RawMessage, dst any, strict Strictness) error {
	given := map[string]json.RawMessage{}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && !bytes.Equal(trimmed, []byte("null")) {
		if err := json.Unmarshal(trimmed, &given); err != nil {
			return code.Errorf(code.InvalidParameter, "the parameters must be a JSON object with a value for each name")
		}
	}
	v := reflect.ValueOf(dst).Elem()
	known := map[string]bool{}
	for _, f := range reflect.VisibleFields(v.Type()) { // those of embedded structs too
		name, ok := nameOf(f)
		if !ok {
			continue
		}
		known[name] = true
		value, present := given[name]
		if !present || bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
			def, optional := f.Tag.Lookup("default")
			if !optional {
				return code.Errorf(code.InvalidParameter, "parameter %q is missing", name)
			}
			if def == "" {
				continue
			}
			value = defaultJSON(f.Type, def)
		}
		if err := json.Unmarshal(value, v.FieldByIndex(f.Index).Addr().Interface()); err != nil {
			if Secret(name) {
				return code.Errorf(code.InvalidParameter, "parameter %q: %s is no value for it", name, Hidden)
			}
			return code.Errorf(code.InvalidParameter, "parameter %q: %s", name, sentence(err, Shown(value)))
		}
	}
	if strict {
		for _, name := range slices.Sorted(maps.Keys(given)) {
			if !known[name] {
				return code.Errorf(code.InvalidParameter, "there is no parameter %s; this verb takes %s", quote(name), names(v.Type()))
			}
		}
	}
	return nil
}

// Describe lists the parameters of a struct (or a pointer to one) in the order of its fields.
func Describe(params any) []Field {
	t := reflect.TypeOf(params)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var out []Field
	for _, f := range reflect.VisibleFields(t) {
		name, ok := nameOf(f)
		if !ok {
			continue
		}
		def, optional := f.Tag.Lookup("default")
		out = append(out, Field{Name: name, Type: typeName(f.Type), Optional: optional, Default: def, Doc: f.Tag.Get("doc")})
	}
	return out
}

func nameOf(f reflect.StructField) (string, bool) {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, name != "" && name != "-" && f.IsExported()
}

func names(t reflect.Type) string {
	var all []string
	for _, f := range reflect.VisibleFields(t) {
		if name, ok := nameOf(f); ok {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// defaultJSON turns a default tag into JSON: a quoted string, unless the field is of a kind whose JSON is not a string.
func defaultJSON(t reflect.Type, def string) json.RawMessage {
	if t.Kind() == reflect.String || reflect.PointerTo(t).Implements(textual) {
		b, _ := json.Marshal(def) // a string always marshals
		return b
	}
	return json.RawMessage(def)
}

var textual = reflect.TypeFor[interface{ fromText(string) error }]()

// sentence makes of encoding/json's errors something for a person.
func sentence(err error, value json.RawMessage) string {
	var refused *code.Error
	if errors.As(err, &refused) {
		return refused.Message
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Sprintf("%s is not %s", shorten(string(value)), kindName(mismatch.Type))
	}
	return fmt.Sprintf("%s cannot be read (%s)", shorten(string(value)), err)
}

// kindName says what JSON a type takes.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a whole number in its range"
}

// shorten keeps what a client sent from filling its own error message.
func shorten(value string) string {
	const most = 60
	if len(value) <= most {
		return value
	}
	cut := most
	for !utf8.RuneStart(value[cut]) {
		cut--
	}
	return value[:cut] + "…"
}

func quote(value string) string { return strconv.Quote(shorten(value)) }
