package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/verbargs"
	"vdsm-agent/internal/param"
	"vdsm-agent/rpc/wire"
)

// callCommand calls any verb of the daemon, in vdsm-client's way.
type callCommand struct {
	globals
	Namespace string   `arg:"" predictor:"namespace"`
	Verb      string   `arg:"" optional:"" predictor:"verb"`
	Params    []string `arg:"" optional:"" predictor:"param"`
	File      string   `short:"f" placeholder:"FILE" predictor:"file"`
	Help      bool     `short:"h"`
}

// method is one entry of the daemon's rpc.methods.
type method struct{ wire.Method }

// noPool stands for "no pool": a task submitted with it belongs to no engine.
const noPool = string(param.Blank)

// Run calls the verb, or tells what there is to call.
func (cc *callCommand) Run(ctx context.Context, c *cli) error {
	var given verbargs.Params
	if cc.File != "" && !cc.Help {
		var err error
		if given, err = c.paramsFile(cc.File); err != nil {
			return err
		}
	}
	all, err := c.methods(ctx)
	if err != nil {
		return err
	}
	if cc.Verb == "" {
		return c.namespace(all, cc.Namespace)
	}
	m, err := lookUp(all, cc.Namespace, cc.Verb)
	if err != nil {
		return err
	}
	if cc.Help {
		return c.methodHelp(m)
	}
	params := verbargs.Params{}
	for key, value := range given {
		params[key] = value
	}
	if err := params.Set(cc.Params, m.Params); err != nil {
		return misuse("%s; see '%s --help'", err, m.words())
	}
	params.Default("storagepoolID", noPool, m.Params)
	if err := params.Check(m.Params); err != nil {
		return misuse("%s; see '%s --help'", err, m.words())
	}
	var result json.RawMessage
	if err := c.daemon.unlimited(ctx, m.Name, params, &result); err != nil {
		return err
	}
	var text string
	if err := json.Unmarshal(result, &text); err == nil && !c.JSON {
		c.printf("%s\n", clean(text)) // an id, mostly, for the next command line
		return nil
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, result, "", "  "); err != nil {
		return fmt.Errorf("the daemon's answer is not JSON: %w", err)
	}
	c.printf("%s\n", indented.Bytes())
	return nil
}

// methods are all that the daemon has.
func (c *cli) methods(ctx context.Context) (all []method, err error) {
	return all, c.daemon.call(ctx, "rpc.methods", nil, &all)
}

// paramsFile reads the parameters of -f; "-" is standard input.
func (c *cli) paramsFile(name string) (verbargs.Params, error) {
	if name == "-" {
		return inUsage(verbargs.Read(c.stdin, "standard input"))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, misuse("the parameters cannot be read: %s", err)
	}
	defer f.Close()
	return inUsage(verbargs.Read(f, name))
}

func inUsage(p verbargs.Params, err error) (verbargs.Params, error) {
	if err != nil {
		return nil, misuse("%s", err)
	}
	return p, nil
}

// words is how the verb is called on the command line.
func (m method) words() string { return program + " " + strings.Replace(m.Name, ".", " ", 1) }

func (m method) split() (namespace, verb string) {
	namespace, verb, _ = strings.Cut(m.Name, ".")
	return namespace, verb
}

// lookUp finds a verb by its two words; one of the words may also be an alias's.
func lookUp(all []method, namespace, verb string) (method, error) {
	name := namespace + "." + verb
	for _, m := range all {
		if m.Name == name || slices.Contains(m.Aliases, name) {
			return m, nil
		}
	}
	if len(inNamespace(all, namespace)) == 0 {
		return method{}, noNamespace(all, namespace)
	}
	return method{}, misuse("there is no verb %s; '%s %s' lists those that there are", name, program, namespace)
}
