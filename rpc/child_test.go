package rpc_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"vdsm-agent/rpc/client"
)

// childOf names the socket that the test binary dials when it runs as the child of a test.
const childOf = "RPC_TEST_SOCKET"

// TestChildDials is the part of TestOthersMayNotConnect that runs as another user.
func TestChildDials(t *testing.T) {
	path := os.Getenv(childOf)
	if path == "" {
		return // not a child
	}
	switch _, err := client.Dial(t.Context(), path); {
	case errors.Is(err, client.ErrNoConnection):
		t.Error("it is taken for an agent that is not there")
	case errors.Is(err, fs.ErrPermission):
		t.Log("dialled: permission denied")
	default:
		t.Errorf("dialled: %v", err)
	}
}
