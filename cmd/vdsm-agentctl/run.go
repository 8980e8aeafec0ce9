package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
)

const (
	program       = "vdsm-agentctl"
	defaultSocket = "/run/vdsm-agent/api.sock"
)

// process is everything of the world that the program touches.
type process struct {
	args           []string
	env            func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       bool // stdout is one
	notes          bool // stderr is one
	width, height  int  // of the terminal; 0 = not known
	dial           func(ctx context.Context, to target) (connection, error)
}

// globals are the flags that every command takes.
type globals struct {
	Socket         string  `predictor:"file" placeholder:"PATH" default:"${socket}" help:"The daemon's socket (environment: VDSM_AGENT_SOCKET; now ${default})."`
	Connect        string  `placeholder:"HOST:PORT" help:"Connect to the daemon of another host instead, by TLS (needs --cert, --key, --ca; environment: VDSM_AGENT_CONNECT, VDSM_AGENT_CERT, VDSM_AGENT_KEY, VDSM_AGENT_CA)."`
	Cert           string  `predictor:"file" placeholder:"FILE" help:"Certificate of this client."`
	Key            string  `predictor:"file" placeholder:"FILE" help:"Its key."`
	CA             string  `predictor:"file" name:"ca" placeholder:"FILE" help:"Certificates of the authority that the other host's certificate must be of."`
	VerifyHost     bool    `help:"Also refuse a certificate that is not of the host that --connect names."`
	JSON           bool    `name:"json" help:"Print JSON instead of text; an error as an object with exit, message and, of the daemon, code."`
	NoColor        bool    `help:"Print without colours (environment: NO_COLOR)."`
	ConnectTimeout seconds `placeholder:"S" default:"10" help:"How long to wait for a daemon that is starting, in seconds (${default})."`
}

// commands is the grammar of the words that begin with a lower-case letter.
type commands struct {
	globals
	Tasks    tasksCommand    `cmd:"" help:"List the tasks."`
	Task     taskCommand     `cmd:"" help:"Show all that is known of a task."`
	Watch    watchCommand    `cmd:"" help:"Show the progress of a task, or of all, until the end."`
	Wait     waitCommand     `cmd:"" help:"Wait until a task has ended."`
	Stop     stopCommand     `cmd:"" help:"Cancel a task that has not passed its point of no return: stop the work, then undo it."`
	Pause    pauseCommand    `cmd:"" help:"Let a task rest that goes in slices, such as a copy, until it is resumed."`
	Resume   resumeCommand   `cmd:"" help:"Let a paused task go on."`
	Limit    limitCommand    `cmd:"" help:"Limit how many bytes per second a task moves."`
	Revert   revertCommand   `cmd:"" help:"Undo a task that has finished, or try a failed undo again."`
	Clear    clearCommand    `cmd:"" help:"Accept ended tasks for good: they can no longer be reverted and leave the lists."`
	History  historyCommand  `cmd:"" help:"List tasks that were cleared, newest first."`
	Queue    queueCommand    `cmd:"" help:"Show how many tasks run and wait, and what for; change the limits."`
	Drain    drainCommand    `cmd:"" help:"Let no new tasks in, and wait until all have ended."`
	Flow     flowCommand     `cmd:"" help:"See or cancel all tasks of one action of an engine."`
	Events   eventsCommand   `cmd:"" help:"Follow what happens to tasks, flows and jobs."`
	Trash    trashCommand    `cmd:"" help:"See, restore or empty what deletes have moved to the trash."`
	Domains  domainsCommand  `cmd:"" help:"List the storage domains."`
	Domain   domainCommand   `cmd:"" help:"Look for damage and leftovers in a storage domain, with or without a running daemon, and repair what is safe."`
	Import   importCommand   `cmd:"" name:"import-vdsm-tasks" help:"Show the tasks that VDSM has left and what they left in storage domains, and clean up after them."`
	Contract contractCommand `cmd:"" help:"Show what a cancel of each verb guarantees."`
	Config   configCommand   `cmd:"" help:"Look at the configuration of the daemon."`
	Metrics  metricsCommand  `cmd:"" help:"Print the figures of the daemon, as Prometheus reads them."`
	Doctor   doctorCommand   `cmd:"" help:"Look at everything that the daemon needs of this host, with or without a running one, and say how to mend what is wrong."`
	Store    storeCommand    `cmd:"" help:"Look at the store of tasks, with or without a running daemon."`
	Version  versionCommand  `cmd:"" help:"Print the version."`

	Completion completionCommand `cmd:"" help:"Print the script that completes command lines in a shell."`
	Complete   completeCommand   `cmd:"" hidden:"" help:"Say what fits the last of some words; for the scripts of 'completion'."`
}

const description = `Command-line client of vdsm-agentd.

A first word that begins with an upper-case letter calls a verb of the daemon, as vdsm-client does: ` +
	`'vdsm-agentctl Host getAllTasks', 'vdsm-agentctl Volume create size=1073741824 ...'. ` +
	`'vdsm-agentctl Volume' lists the verbs of a namespace, 'vdsm-agentctl Volume create --help' the parameters of a verb.

A task is named by its id or by a beginning of it that no other task has.

Exit codes: 0 done, 1 the daemon refused, 2 wrong usage, 3 no connection, 4 time-out, 5 the task did not succeed or a check found something, 130 interrupted.`

// cli is what a command works with.
type cli struct {
	process
	globals
	daemon *session
	style  show.Style
}

// run is the whole program: it returns the exit code. It ends soon after ctx does; what it was waiting for goes on.
func run(ctx context.Context, p process) int {
	out := &output{w: p.stdout}
	p.stdout = out
	err := execute(ctx, p)
	if broken := out.failure(); broken != nil {
		err = broken
	}
	r := explain(err)
	if r.Message != "" {
		r.print(p.stderr, slices.Contains(p.args, "--json"))
	}
	return r.Exit
}

func execute(ctx context.Context, p process) error {
	p.args = usual(p.args)
	var call callCommand
	verbs, err := grammar(p, &call, kong.NoDefaultHelp())
	if err != nil {
		return err
	}
	if isNamespace(firstWord(verbs, p.args)) {
		if _, err := verbs.Parse(p.args); err != nil {
			return refused(err, "--help")
		}
		return with(ctx, p, call.globals, call.Run)
	}
	var all commands
	helped := false
	parser, err := grammar(p, &all, kong.Description(description), kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}))
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(p.args)
	if helped {
		return nil
	}
	if err != nil {
		return refused(err, hint(parser, p.args))
	}
	return with(ctx, p, all.globals, func(ctx context.Context, c *cli) error {
		parsed.BindTo(ctx, (*context.Context)(nil))
		return parsed.Run(c)
	})
}

// usual makes of what people type because other programs take it what this one takes: nothing, help, --version.
func usual(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "--version":
		return []string{"version"}
	}
	return args
}

func grammar(p process, into any, options ...kong.Option) (*kong.Kong, error) {
	socket := p.env("VDSM_AGENT_SOCKET")
	if socket == "" {
		socket = defaultSocket
	}
	return kong.New(into, append(options, kong.Name(program), kong.Vars{"socket": socket}, kong.Writers(p.stdout, p.stderr))...)
}

// with gives a command what it works with, and closes the connection after it.
func with(ctx context.Context, p process, g globals, command func(context.Context, *cli) error) error {
	c := &cli{process: p, globals: g}
	c.style.Colours = p.terminal && !g.NoColor && p.env("NO_COLOR") == "" && p.env("TERM") != "dumb"
	to, err := g.target(p.env)
	if err != nil {
		return err
	}
	c.daemon = &session{dial: p.dial, to: to, patience: g.ConnectTimeout.duration(), note: c.note}
	defer c.daemon.close()
	return command(ctx, c)
}

// plainWords are the arguments that are neither flags nor flags' values.
func plainWords(k *kong.Kong, args []string) (words []string) {
	for i := 0; i < len(args); i++ {
		word := args[i]
		if !strings.HasPrefix(word, "-") || word == "-" {
			words = append(words, word)
			continue
		}
		for _, f := range k.Model.Flags {
			if !f.IsBool() && (word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)) {
				i++
			}
		}
	}
	return words
}

func firstWord(k *kong.Kong, args []string) string { return first(plainWords(k, args)) }

// refused makes of a parser's error a usage error with one line.
func refused(err error, help string) error {
	text := err.Error()
	if word, unexpected := strings.CutPrefix(text, "unexpected argument "); unexpected {
		text = "there is no command or argument " + strings.TrimSuffix(word, "?")
		if help == "--help" && !strings.Contains(word, ",") {
			text += " (verbs of the daemon begin with an upper-case letter)"
		}
	} else if what, needed := strings.CutPrefix(text, "expected "); needed {
		text = "missing: " + what
	} else if flag, _, bare := strings.Cut(text, `: expected value value but got "EOL"`); bare {
		text = flag + " needs a value"
	}
	return misuse("%s; see '%s %s'", text, program, help)
}

// hint names the help of the command that was meant, if the arguments begin with one.
func hint(k *kong.Kong, args []string) string {
	word := firstWord(k, args)
	for _, child := range k.Model.Children {
		if child.Name == word {
			return word + " --help"
		}
	}
	return "--help"
}

// note tells a person at a terminal something that is no part of the answer.
func (c *cli) note(format string, args ...any) {
	if c.notes {
		fmt.Fprintf(c.stderr, "%s: %s\n", program, show.Clean(fmt.Sprintf(format, args...)))
	}
}
