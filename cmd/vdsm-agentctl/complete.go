package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/rpc/wire"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"
)

// completeCommand prints what fits the last of some words, a line each, with a tab and an explanation if there is one; for the
// scripts of "completion". ":files" alone says that names of files fit. Nothing of the daemon fits while it does not answer.
type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:"" help:"The command line up to the cursor, without the program."`
}

// completeLimit is how long a person who has pressed the key waits for a daemon that does not answer.
const completeLimit = 2 * time.Second

func (cc *completeCommand) Run(ctx context.Context, c *cli) error {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	words := cc.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	named := namedIn(words, c.globals)
	if _, err := named.target(c.env); err != nil {
		named = globals{} // the line does not name a daemon yet
	}
	return with(ctx, c.process, named, func(ctx context.Context, c *cli) error {
		all, err := (&completer{cli: c, ctx: ctx, about: map[string]string{}}).fitting(words)
		if err != nil {
			return err
		}
		for _, line := range all {
			c.printf("%s\n", line)
		}
		return nil
	})
}

// namedIn is which daemon the words name.
func namedIn(words []string, g globals) globals {
	for i, word := range words {
		for flag, value := range map[string]*string{"--socket": &g.Socket, "--connect": &g.Connect, "--cert": &g.Cert, "--key": &g.Key, "--ca": &g.CA} {
			if text, joined := strings.CutPrefix(word, flag+"="); joined {
				*value = text
			} else if word == flag && i+1 < len(words) {
				*value = words[i+1]
			}
		}
		g.VerifyHost = g.VerifyHost || word == "--verify-host"
	}
	return g
}

// completer finds what fits.
type completer struct {
	*cli
	ctx   context.Context //nolint:containedctx // of one completion; a predictor is not given any
	words []string        // the line's words but flags and their values
	about map[string]string
	files bool // names of files fit
}

// fitting are the lines for what fits the last word.
func (c *completer) fitting(words []string) ([]string, error) {
	if len(words) == 0 {
		words = []string{""}
	}
	last, before := words[len(words)-1], words[:len(words)-1]
	joined := ""
	if flag, value, ok := strings.Cut(last, "="); ok && strings.HasPrefix(flag, "-") {
		joined, last, before = flag+"=", value, append(slices.Clone(before), flag)
	}
	var call callCommand
	var all commands
	verbs, err := grammar(c.process, &call, kong.NoDefaultHelp())
	if err != nil {
		return nil, err
	}
	parser, err := grammar(c.process, &all)
	if err != nil {
		return nil, err
	}
	c.words = plainWords(verbs, before)
	if isNamespace(first(c.words)) {
		parser = verbs
	}
	c.explain(parser.Model.Node, c.words)
	tree, err := kongplete.Command(parser, kongplete.WithPredictors(c.predictors()))
	if err != nil {
		return nil, err
	}
	args := complete.Args{All: append(slices.Clone(before), last), Completed: before, Last: last}
	if len(before) > 0 {
		args.LastCompleted = before[len(before)-1]
	}
	found := tree.Predict(args)
	if isFirst := len(plainWords(verbs, append(slices.Clone(before), "word"))) == 1; isFirst && len(c.words) == 0 && !strings.HasPrefix(last, "-") {
		found = append(found, c.namespaces()...)
	}
	if c.files {
		return []string{":files"}, nil
	}
	slices.Sort(found)
	var lines []string
	for _, word := range slices.Compact(found) {
		if !strings.HasPrefix(word, last) {
			continue
		}
		line := clean(joined + word)
		if about := c.about[word]; about != "" {
			line += "\t" + show.Cut(clean(about), 80)
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// explain remembers what the help says of the flags and commands that can follow the words below a node.
func (c *completer) explain(n *kong.Node, words []string) {
	for _, f := range n.Flags {
		c.about["--"+f.Name] = f.Help
	}
	for _, child := range n.Children {
		if len(words) == 0 {
			c.about[child.Name] = child.Help
		} else if words[0] == child.Name {
			c.explain(child, words[1:])
		}
	}
}

// predictors are what the tags "predictor" in the grammars name.
func (c *completer) predictors() map[string]complete.Predictor {
	lazy := func(find func() []string) complete.Predictor {
		return complete.PredictFunc(func(complete.Args) []string { return find() })
	}
	var states []string
	for _, s := range stateWords {
		states = append(states, string(s))
	}
	return map[string]complete.Predictor{
		"file":      lazy(func() []string { c.files = true; return nil }),
		"state":     complete.PredictSet(states...),
		"topic":     complete.PredictSet("'|tasks|status|*'", "'|tasks|progress|*'", "'|flows|status|*'", "'|jobs|status|*'"),
		"task":      lazy(func() []string { return c.taskIDs(func(wire.Task) bool { return true }) }),
		"open":      lazy(func() []string { return c.taskIDs(func(t wire.Task) bool { return !final(t) }) }),
		"ended":     lazy(func() []string { return c.taskIDs(final) }),
		"flow":      lazy(c.flowIDs),
		"domain":    lazy(c.domains),
		"trash":     lazy(c.trashed),
		"contract":  lazy(c.taskVerbs),
		"namespace": lazy(c.namespaces),
		"verb":      lazy(c.verbs),
		"param":     complete.PredictFunc(func(a complete.Args) []string { return c.params(a.Last) }),
	}
}
