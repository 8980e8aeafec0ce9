package main

import (
	"slices"
	"strings"

	"vdsm-agent/cmd/vdsm-agentctl/internal/show"
	"vdsm-agent/cmd/vdsm-agentctl/internal/verbargs"
)

// namespace lists the verbs of a namespace with their parameters.
func (c *cli) namespace(all []method, name string) error {
	verbs := inNamespace(all, name)
	if len(verbs) == 0 {
		return noNamespace(all, name)
	}
	return c.show(verbs, func() error {
		table := c.table(show.Column{Head: strings.ToUpper(name)}, show.Column{Head: "PARAMETERS"})
		for _, m := range verbs {
			_, verb := m.split()
			var names []string
			for _, f := range m.Params {
				if f.Optional {
					names = append(names, "["+f.Name+"]")
					continue
				}
				names = append(names, f.Name)
			}
			table.Add(verb, strings.Join(names, " "))
		}
		if err := table.Write(c.stdout); err != nil {
			return err
		}
		c.printf("\n'%s %s VERB --help' explains the parameters of a verb.\n", program, name)
		return nil
	})
}

// methodHelp explains the parameters of one verb.
func (c *cli) methodHelp(m method) error {
	return c.show(m, func() error {
		c.printf("Usage: %s [-f FILE] [key=value | key:=JSON] ...\n\n", m.words())
		table := c.table(show.Column{Head: "PARAMETER"}, show.Column{Head: "TYPE"}, show.Column{Head: "DEFAULT"}, show.Column{Head: ""})
		table.Width = 0 // help is not cut
		for _, f := range m.Params {
			def := "(needed)"
			switch {
			case f.Name == "storagepoolID":
				def = "(no pool)"
			case f.Optional:
				def = f.Default
			}
			table.Add(f.Name, verbargs.TypeWord(f), def, f.Doc)
		}
		if err := table.Write(c.stdout); err != nil {
			return err
		}
		if len(m.Params) == 0 {
			c.printf("It takes no parameters.\n")
			return nil
		}
		c.printf("\n%s\n", strings.Join(show.Wrap("key=value gives a string, or, for a parameter that is a number, a boolean, a list or an object, "+
			"JSON; key:=JSON always gives JSON. -f reads a JSON object of parameters from a file, or with - from standard input; "+
			"words add to it and win over it. The answer is JSON; one that is a string is printed bare, but with --json. The other flags are as for every command.", 100), "\n"))
		return nil
	})
}

func inNamespace(all []method, name string) []method {
	var out []method
	for _, m := range all {
		if namespace, _ := m.split(); namespace == name {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b method) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// namespaces are those that a person calls.
func namespaces(all []method) []string {
	var names []string
	for _, m := range all {
		if namespace, _ := m.split(); isNamespace(namespace) && !slices.Contains(names, namespace) {
			names = append(names, namespace)
		}
	}
	slices.Sort(names)
	return names
}

// isNamespace says whether a first word calls a verb of the daemon.
func isNamespace(word string) bool { return word != "" && word[0] >= 'A' && word[0] <= 'Z' }

func noNamespace(all []method, name string) error {
	return misuse("there is no namespace %q; choose one of %s", name, strings.Join(namespaces(all), ", "))
}
