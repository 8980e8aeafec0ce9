package vdsmtasks

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vdsm-agent/internal/param"
)

// TestMade: what the recoveries of a task say that it was making.
func TestMade(t *testing.T) {
	mnt := "/rhev/data-center/mnt/server:_path/" + sd + "/images/" + img
	for _, c := range []struct {
		state, function string
		params          []string
		want            []Place
	}{
		{"running", "createVolumeRollback", []string{sd, img, vol}, []Place{{sd, img, vol}}},
		{"running", "createVolumeRollback", []string{"/rhev/data-center/" + parent, sd, img, vol, mnt}, []Place{{sd, img, vol}}},
		{"recovering", "startCreateVolumeRollback", []string{sd, img, vol}, []Place{{sd, img, vol}}},
		{"failed", "halfbakedVolumeRollback", []string{sd, vol, mnt + "/" + vol}, []Place{{sd, img, vol}}},
		{"failed", "halfbakedVolumeRollback", []string{sd, vol}, []Place{{sd, "", vol}}},
		{"failed", "halfbakedVolumeRollback", []string{mnt + "/" + vol + ".volatile"}, []Place{{sd, img, vol}}},
		{"aborting", "shareVolumeRollback", []string{mnt + "/" + vol}, []Place{{sd, img, vol}}},
		{"running", "createImageRollback", []string{mnt}, []Place{{sd, img, ""}}},
		{"running", "parentVolumeRollback", []string{sd, img, parent}, nil}, // it was there before
		{"running", "createVolumeRollback", []string{vol}, nil},
		{"running", "createVolumeRollback", nil, nil},
		{"running", "createImageRollback", []string{mnt + "/../../../etc"}, nil},
		{"running", "createImageRollback", []string{mnt + "/" + vol + "/deeper"}, nil},
		{"running", "createImageRollback", []string{mnt + "/notes"}, nil},
		{"running", "createImageRollback", []string{"images/" + img}, nil},
		{"finished", "createVolumeRollback", []string{sd, img, vol}, nil}, // it succeeded: nothing of it is taken back
	} {
		task := Task{State: c.state, Recoveries: []Recovery{{Function: "m.O." + c.function, Params: c.params}, {Function: "m.O." + c.function, Params: c.params}}}
		if got := task.Made(); !slices.Equal(got, c.want) {
			t.Errorf("%s %s%v: got %v, want %v", c.state, c.function, c.params, got, c.want)
		}
	}
}

// TestIDs: all ids that a task names, but for its own and for none.
func TestIDs(t *testing.T) {
	task := Task{
		ID:         taskA,
		Jobs:       []Job{{Args: []string{sd, "imgUUID=" + img, string(param.Blank), "{'a': '" + vol + "'}"}}, {Raw: "x(" + taskB + ")"}},
		Recoveries: []Recovery{{Name: "of " + parent, Params: []string{sd, "/a/" + img, taskA}}},
	}
	if got, want := task.IDs(), []string{sd, img, vol, taskB, parent}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestMeaning: each of VDSM's states says something of its own kind, and which have come to an end.
func TestMeaning(t *testing.T) {
	for state, want := range map[string]string{
		"finished": "success true true", "recovered": "was taken back true false", "failed": "still there true false",
		"aborting": "not taken back yet false false", "waitrecover": "not taken back yet false false", "recovering": "did not come to its end false false",
		"racquiring": "did not come to its end false false", "raborting": "did not come to its end false false", "init": "not begun false false",
		"preparing": "not begun false false", "blocked": "not begun false false", "acquiring": "not begun false false", "queued": "not begun false false",
		"running": "never ended false false", "dreaming": "not known false false", "": "not known false false",
	} {
		task := Task{State: state}
		words, ends, _ := strings.Cut(want, " true")
		if ends == "" {
			words, _, _ = strings.Cut(want, " false")
		}
		got := fmt.Sprint(task.Ended(), " ", task.Success())
		if !strings.Contains(task.Meaning(), words) || !strings.HasSuffix(want, got) {
			t.Errorf("%s: %s; ended, success: %s", state, task.Meaning(), got)
		}
	}
}

// TestCommands: what Python prints of a job's arguments.
func TestCommands(t *testing.T) {
	for printed, want := range map[string]Job{
		"f (args: () kwargs: {})":                           {Command: "f"},
		"f (args: ('a',) kwargs: {})":                       {Command: "f", Args: []string{"a"}},
		`f (args: ('it\'s', "it's", '') kwargs: {})`:        {Command: "f", Args: []string{"it's", "it's", ""}},
		"f (args: (u'a', b'b', 'u') kwargs: {})":            {Command: "f", Args: []string{"a", "b", "u"}},
		"f (args: (1, [2, (3, '4')], <o at 0x1>) kwargs: )": {Command: "f", Args: []string{"1", "[2, (3, '4')]", "<o at 0x1>"}},
		"f (args: ('), b') kwargs: {'a': 'b, }', 'n': 1})":  {Command: "f", Args: []string{"), b", "a=b, }", "n=1"}},
		"f (args: ('cut":                                    {Command: "f", Args: []string{"cut"}},
		"f (args: (":                                        {Command: "f"},
		"something else":                                    {Raw: "something else"},
	} {
		var got Job
		parseCommand(&got, printed)
		if got.Command != want.Command || !slices.Equal(got.Args, want.Args) || got.Raw != want.Raw {
			t.Errorf("%s: got %+v, want %+v", printed, got, want)
		}
	}
}
