package config

import (
	"fmt"
	"strings"
)

// width is how long a line of the shipped file is at most.
const width = 120

// File is the shipped file: every key with its comment, all of them commented out, so that an upgrade may bring better defaults.
func File() string {
	var b strings.Builder
	b.WriteString("# Configuration of vdsm-agentd; see vdsm-agent.conf(5). Each value here is the default, unless it is said to be an example; remove the ; before\n" +
		"# a key to change it, or put it into a file of your own in conf.d, such as conf.d/50-local.conf. Check what you wrote with\n" +
		"# 'vdsm-agentd --check-config', and see what is in force with 'vdsm-agentctl config show'.\n")
	section := ""
	for _, k := range keys {
		if k.section != section {
			section = k.section
			fmt.Fprintf(&b, "\n[%s]\n", section)
		}
		for _, line := range wrapped(k.doc+" "+k.notes(), width-2) {
			b.WriteString("# " + line + "\n")
		}
		fmt.Fprintf(&b, ";%s = %s\n", k.key, k.value)
	}
	return b.String()
}

// notes are what is to be known of a key besides what it means.
func (k key) notes() string {
	var notes []string
	if k.unset {
		notes = append(notes, "No default; an example:")
	}
	if !k.live {
		notes = append([]string{"Needs a restart."}, notes...)
	}
	return strings.Join(notes, " ")
}

// Manual is the body of vdsm-agent.conf(5), in Markdown.
func Manual() string {
	var b strings.Builder
	section := ""
	for _, k := range keys {
		if k.section != section {
			section = k.section
			fmt.Fprintf(&b, "\n## \\[%s\\]\n\n", section)
		}
		fmt.Fprintf(&b, "**%s** = *%s*\n: %s %s\n\n", escaped(k.key), escaped(k.value), escaped(k.doc), strings.TrimSuffix(strings.ReplaceAll(k.notes(), "; an example:", ", but an example is shown."), " "))
	}
	return b.String()
}

var escaped = strings.NewReplacer("*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", `\<`, "~", `\~`, "|", `\|`).Replace

// wrapped breaks a text between words.
func wrapped(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
