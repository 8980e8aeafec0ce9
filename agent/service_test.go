package agent

import (
	"os"
	"testing"
	"time"

	"vdsm-agent/systemd"

	"github.com/coreos/go-systemd/v22/unit"
)

// serviceKey is the value of a key of the service's unit file.
func serviceKey(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open("../systemd/units/vdsm-agentd.service")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	options, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		if o.Section == "Service" && o.Name == name {
			return o.Value
		}
	}
	t.Fatalf("the service has no %s", name)
	return ""
}

// TestTimesOfTheService: systemd's patience is longer than what the daemon may take by its own bounds.
func TestTimesOfTheService(t *testing.T) {
	const answers, workers = 5 * time.Second, 2 * time.Second // rpc.Options.DrainFor, proc.Manager.Close
	for key, least := range map[string]time.Duration{
		"TimeoutStopSec":  shutdownWait + answers + workers,
		"TimeoutStartSec": 2*lockWait + leftoverWait + claimWait,
		"WatchdogSec":     10 * time.Second, // a busy host must not look like a wedged daemon
	} {
		if has, err := time.ParseDuration(serviceKey(t, key)); err != nil || has <= least {
			t.Errorf("%s is %s, must be more than %s (%v)", key, has, least, err)
		}
	}
	if start, err := time.ParseDuration(serviceKey(t, "TimeoutStartSec")); err != nil || start != systemd.ExtendBy {
		t.Errorf("TimeoutStartSec is %s, and a start that makes progress gets %s (%v)", start, systemd.ExtendBy, err)
	}
}
