package main

import "embed"

// completionCommand prints the script by which a shell completes command lines.
type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is the end of the command's help text.
func (completionCommand) Help() string {
	return "For bash: 'source <(vdsm-agentctl completion bash)' in ~/.bashrc; for zsh the same after compinit; for fish " +
		"'vdsm-agentctl completion fish | source'. Verbs, their parameters, tasks, flows and domains are those of the daemon that the line names."
}

// The scripts hold no words of ours: they ask "vdsm-agentctl complete" for what fits.
//
//go:embed completion
var scripts embed.FS

func (cc *completionCommand) Run(c *cli) error {
	script, err := scripts.ReadFile("completion/" + cc.Shell)
	if err != nil {
		return err
	}
	return c.show(map[string]string{"shell": cc.Shell, "script": string(script)}, func() error {
		c.printf("%s", script)
		return nil
	})
}
