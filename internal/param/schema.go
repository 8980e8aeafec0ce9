package param

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/google/jsonschema-go/jsonschema"
)

// Schemas are the JSON schemas of this package's types: what their UnmarshalJSON takes.
var Schemas = map[reflect.Type]*jsonschema.Schema{
	reflect.TypeFor[UUID]():        {Type: "string", Pattern: uuidPattern.String()},
	reflect.TypeFor[Size]():        {Type: "string", Pattern: "^[0-9]+$", Description: "bytes, as a decimal string"},
	reflect.TypeFor[Bool]():        {AnyOf: []*jsonschema.Schema{{Type: "boolean"}, {Type: "string", Description: "true in any case; any other is false"}}},
	reflect.TypeFor[Int]():         {AnyOf: []*jsonschema.Schema{{Type: "integer"}, {Type: "string", Pattern: "^-?[0-9]+$"}}},
	reflect.TypeFor[Seconds]():     {AnyOf: []*jsonschema.Schema{{Type: "number", Minimum: new(float64)}, {Type: "string", Description: "the same number as text"}}},
	reflect.TypeFor[Format]():      choice(formats),
	reflect.TypeFor[Allocation]():  choice(allocations),
	reflect.TypeFor[VolType]():     choice(volTypes),
	reflect.TypeFor[Operation]():   choice(operations),
	reflect.TypeFor[SyncType]():    choice(syncTypes),
	reflect.TypeFor[DomainType]():  choice(domainTypes),
	reflect.TypeFor[DomainClass](): choice(domainClasses),
	reflect.TypeFor[DiskType]():    choice(diskTypes),
}

// choice takes a word, or VDSM's integer for it, also as a string.
func choice(words map[string]string) *jsonschema.Schema {
	s := &jsonschema.Schema{Enum: []any{}}
	for _, w := range distinct(words) {
		s.Enum = append(s.Enum, w)
	}
	for _, key := range slices.Sorted(maps.Keys(words)) {
		if n, err := strconv.Atoi(key); err == nil {
			s.Enum = append(s.Enum, n)
			if !slices.Contains(s.Enum, any(key)) {
				s.Enum = append(s.Enum, key)
			}
		}
	}
	return s
}

// SchemaOf is the JSON schema of a value of a type, which may contain this package's types. Lists are never null. It panics on a type
// that JSON does not have, since that is a defect of the program.
func SchemaOf(t reflect.Type, more map[reflect.Type]*jsonschema.Schema) *jsonschema.Schema {
	all := maps.Clone(Schemas)
	maps.Copy(all, more)
	all[reflect.TypeFor[json.RawMessage]()] = &jsonschema.Schema{}
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: all})
	if err != nil {
		panic(err)
	}
	withoutNull(s)
	return s
}

// withoutNull takes null from the types of lists.
func withoutNull(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if slices.Equal(s.Types, []string{"null", "array"}) {
		s.Type, s.Types = "array", nil
	}
	withoutNull(s.Items)
	withoutNull(s.AdditionalProperties)
	for _, p := range s.Properties {
		withoutNull(p)
	}
}

// Described is a parameter with its schema.
type Described struct {
	Field
	Schema *jsonschema.Schema
}

// DescribeSchemas is Describe with the schema of each parameter, and its default in it.
func DescribeSchemas(params any) []Described {
	fields := Describe(params)
	t := reflect.TypeOf(params)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var out []Described
	for _, f := range reflect.VisibleFields(t) {
		if _, ok := nameOf(f); !ok {
			continue
		}
		of := f.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem() // one that tells absent from zero
		}
		d := Described{Field: fields[len(out)], Schema: SchemaOf(of, nil)}
		if d.Default != "" {
			d.Schema.Default = defaultJSON(of, d.Default)
			if !json.Valid(d.Schema.Default) {
				panic("the default of parameter " + d.Name + " is not JSON")
			}
		}
		out = append(out, d)
	}
	return out
}
