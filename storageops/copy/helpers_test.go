package copy

import (
	"os"
	"strconv"
	"syscall"
	"testing"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func touch(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// allocated is how much of a file is allocated, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
