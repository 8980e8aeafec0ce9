//go:build race

package store

// pointStride: the race detector makes SQLite ten times slower and sees the same goroutines at every point, so it gets
// every eleventh. Without it, all are run.
const pointStride = 11
