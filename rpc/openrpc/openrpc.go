// Package openrpc describes methods as an OpenRPC document, so that programs and people can find out what an agent can do, and
// what it answers. It knows no method. It may be imported by rpc.
package openrpc

import (
	"slices"
	"strings"

	"vdsm-agent/internal/param"

	"github.com/google/jsonschema-go/jsonschema"
)

// Version is the version of OpenRPC that documents follow.
const Version = "1.3.2"

// Document is an OpenRPC document.
type Document struct {
	OpenRPC string   `json:"openrpc"`
	Info    Info     `json:"info"`
	Methods []Method `json:"methods"`
}

// Info says what the document is about.
type Info struct {
	Title       string  `json:"title"`
	Version     string  `json:"version"` // of the methods, not of the program
	Description string  `json:"description"`
	License     License `json:"license"`
}

// License is that of the program.
type License struct {
	Name string `json:"name"`
}

// Method is one method. Members that begin with x- are the agent's own.
type Method struct {
	Name           string   `json:"name"`
	Summary        string   `json:"summary"`
	Tags           []Tag    `json:"tags,omitempty"`
	ParamStructure string   `json:"paramStructure"`
	Params         []Value  `json:"params"`
	Result         Value    `json:"result"`
	Errors         []Error  `json:"errors,omitempty"`
	Aliases        []string `json:"x-aliases,omitempty"` // VDSM's old names
	Role           string   `json:"x-role"`              // that its caller needs
	Strict         bool     `json:"x-strict"`            // unknown parameters are refused, else they are ignored
	Contract       any      `json:"x-cancel-contract,omitempty"`
}

// Tag groups methods.
type Tag struct {
	Name string `json:"name"`
}

// Value is a parameter, or a result.
type Value struct {
	Name        string             `json:"name"`
	Description string             `json:"description,omitempty"`
	Required    bool               `json:"required,omitempty"`
	Schema      *jsonschema.Schema `json:"schema"`
}

// Error is a refusal that clients can expect.
type Error struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// New makes a document of methods, by name.
func New(methods []Method) Document {
	slices.SortFunc(methods, func(a, b Method) int { return strings.Compare(a.Name, b.Name) })
	return Document{
		OpenRPC: Version,
		Info: Info{
			Title: "vdsm-agent", Version: "1.0.0", License: License{"Apache-2.0"},
			Description: "Storage and virtualization operations of a hypervisor as durable tasks, with a cancel contract. " +
				"Words, numbers and codes are VDSM's where VDSM has the method.",
		},
		Methods: methods,
	}
}

// Params describes parameters.
func Params(fields []param.Described) []Value {
	out := []Value{}
	for _, f := range fields {
		out = append(out, Value{Name: f.Name, Description: f.Doc, Required: !f.Optional, Schema: f.Schema})
	}
	return out
}
