package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/ini.v1"
)

// partsDir is beside the file, and holds files named *.conf that are read after it.
const partsDir = "conf.d"

// Problems are all that is wrong with the configuration, a sentence for each, with its file and line.
type Problems []error

// Error is a line for each.
func (p Problems) Error() string { return errors.Join(p...).Error() }

// Unwrap is each of them.
func (p Problems) Unwrap() []error { return p }

func (p *Problems) add(where, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %w", where, fmt.Errorf(format, args...)))
}

// assignment is what gives a key its value.
type assignment struct{ value, origin string }

// read collects what files and flags say, by section.key; the last one counts.
func read(f Flags) (map[string]assignment, Problems) {
	given := map[string]assignment{}
	var problems Problems
	if err := readFile(f.file(), given, &problems); err != nil && (f.File != "" || !errors.Is(err, fs.ErrNotExist)) {
		problems = append(problems, err)
	}
	parts, err := filepath.Glob(filepath.Join(quoted(filepath.Dir(f.file())), partsDir, "*.conf")) // sorted by name
	if err != nil {
		problems = append(problems, err)
	}
	for _, part := range parts {
		if err := readFile(part, given, &problems); err != nil {
			problems = append(problems, err)
		}
	}
	f.give(given)
	return given, problems
}

// give adds what the flags say.
func (f Flags) give(given map[string]assignment) {
	flag := func(name, key, value string) {
		if value != "" {
			given[key] = assignment{value, name}
		}
	}
	flag("--state-dir", "agent.state_dir", f.StateDir)
	if f.StateDir != "" {
		flag("--state-dir", "agent.socket", filepath.Join(f.StateDir, "api.sock"))
	}
	flag("--socket", "agent.socket", f.Socket)
	flag("--log-level", "agent.log_level", f.LogLevel)
}

// quoted makes of a path a pattern that only it fits.
func quoted(path string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(path, `\$0`)
}

// readFile adds what a file says. The error is that it cannot be read.
func readFile(file string, given map[string]assignment, problems *Problems) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("the configuration cannot be read: %w", err)
	}
	lines, bad := survey(file, string(raw))
	*problems = append(*problems, bad...)
	if len(bad) > 0 {
		return nil
	}
	f, err := ini.LoadSources(ini.LoadOptions{KeyValueDelimiters: "=", IgnoreContinuation: true, SpaceBeforeInlineComment: true}, raw)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, section := range f.Sections() {
		for _, key := range section.Keys() {
			name := section.Name() + "." + key.Name()
			at := lines[name]
			origin := fmt.Sprintf("%s:%d", file, at[len(at)-1])
			switch known := keysOf(section.Name()); {
			case section.Name() == ini.DefaultSection:
				problems.add(origin, "%s stands before the first section", key.Name())
			case len(known) == 0:
				problems.add(origin, "there is no section [%s]; sections are %s", section.Name(), strings.Join(sections(), ", "))
			case !slices.Contains(known, key.Name()):
				problems.add(origin, "there is no key %q in section [%s]; it has %s", key.Name(), section.Name(), strings.Join(known, ", "))
			case len(at) > 1:
				problems.add(origin, "%s in section [%s] is given twice, first in line %d", key.Name(), section.Name(), at[0])
			default:
				given[name] = assignment{key.String(), origin}
			}
		}
	}
	return nil
}

var (
	sectionLine = regexp.MustCompile(`^\[([^\]]+)\]\s*([#;].*)?$`)
	keyLine     = regexp.MustCompile(`^([^=\s]+)\s*=(.*)$`)
)

// survey finds the lines at which keys are given, which ini does not tell, and those that are none. What ini would take for the beginning of a value of
// several lines is none either.
func survey(file, text string) (lines map[string][]int, problems Problems) {
	lines = map[string][]int{}
	section := ini.DefaultSection
	for i, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.TrimSpace(line)
		s, k := sectionLine.FindStringSubmatch(line), keyLine.FindStringSubmatch(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case s != nil:
			section = strings.TrimSpace(s[1])
		case k != nil && !strings.ContainsAny(strings.TrimSpace(k[2])+" ", "`\""):
			name := section + "." + k[1]
			lines[name] = append(lines[name], i+1)
		default:
			problems.add(fmt.Sprintf("%s:%d", file, i+1), "%q is no section, key or comment; write key = value without quotes, in one line", line)
		}
	}
	return lines, problems
}

// sections are the names of all, sorted.
func sections() []string {
	names := map[string]bool{}
	for _, k := range keys {
		names[k.section] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// keysOf are the keys of a section, in their order.
func keysOf(section string) (names []string) {
	for _, k := range keys {
		if k.section == section {
			names = append(names, k.key)
		}
	}
	return names
}
