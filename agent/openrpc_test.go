package agent

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"vdsm-agent/rpc"
	"vdsm-agent/rpc/openrpc"
	"vdsm-agent/storageops"
	"vdsm-agent/tasks"
	"vdsm-agent/tasks/tasktest"
	"vdsm-agent/vmops"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/rs/zerolog"
)

// document is what the daemon answers to rpc.discover, without the mock verb.
func document(t *testing.T) openrpc.Document {
	t.Helper()
	storage := storageops.New(storageops.Options{})
	vms := vmops.New(vmops.Options{})
	engine := tasks.New(tasks.Options{Store: tasktest.NewMemStore(), Verbs: verbs(storage, vms), Log: zerolog.Nop()})
	server := rpc.New(rpc.Options{Log: zerolog.Nop()})
	server.Handle(rpc.Methods(engine, calls(storage, vms)))
	return server.Document()
}

// TestOpenRPC: docs/openrpc.json is what the code says, and an OpenRPC document. `make generate` writes it.
func TestOpenRPC(t *testing.T) {
	const file = "../docs/openrpc.json"
	text, err := json.MarshalIndent(document(t), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(text) {
		t.Errorf("%s is not what the code says; run `make generate`", file)
	}
	raw, err := os.ReadFile("../rpc/openrpc/testdata/meta-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var meta jsonschema.Schema
	if err := json.Unmarshal(raw, &meta); err != nil {
		t.Fatal(err)
	}
	resolved, err := meta.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(have, &value); err != nil {
		t.Fatal(err)
	}
	if err := resolved.Validate(value); err != nil {
		t.Errorf("%s is not an OpenRPC document: %v", file, err)
	}
	delete(value, "info")
	if resolved.Validate(value) == nil {
		t.Error("a document without info passes for one")
	}
}

// TestSchemas: every method has a schema for each parameter and for its answer that can be used.
func TestSchemas(t *testing.T) {
	var names []string
	for _, m := range document(t).Methods {
		names = append(names, m.Name)
		for _, v := range append(slices.Clone(m.Params), m.Result) {
			if _, err := v.Schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true}); err != nil {
				t.Errorf("%s: the schema of %s: %v", m.Name, v.Name, err)
			}
		}
	}
	if len(names) < 40 || !slices.IsSorted(names) {
		t.Errorf("the methods are %v", names)
	}
}
