// Package show is how things look on a terminal: sizes, times, tables, bars and colours. It makes text of values and knows
// nothing of tasks, of the daemon, or of where the text goes. Only the command line imports it.
package show
