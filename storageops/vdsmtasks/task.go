package vdsmtasks

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"vdsm-agent/internal/param"
)

// Task is one task as VDSM has saved it.
type Task struct {
	ID         string     `json:"id"`
	Verb       string     `json:"verb"`  // "createVolume"
	State      string     `json:"state"` // VDSM's inner state: "running", "recovering", …
	Tag        string     `json:"tag"`
	Saved      time.Time  `json:"saved"` // when VDSM wrote the state
	Jobs       []Job      `json:"jobs"`
	Recoveries []Recovery `json:"recoveries"` // the last one goes first
	Result     *Result    `json:"result,omitempty"`
	Dir        string     `json:"dir"` // "<id>", or the ".temp" or ".backup" that stood in for it
}

// Job is one thing that the task ran.
type Job struct {
	Name    string   `json:"name"`
	Command string   `json:"command"`       // as Python prints it, without the arguments
	Args    []string `json:"args"`          // in order; those given by name as "name=value"
	Raw     string   `json:"raw,omitempty"` // the whole, where it is not of that form
}

// Recovery is one call by which VDSM would have taken something back.
type Recovery struct {
	Name     string   `json:"name"`
	Function string   `json:"function"` // "fileVolume.FileVolume.createVolumeRollback"
	Params   []string `json:"params"`
}

// Result is what a task that finished has answered.
type Result struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Result  string `json:"result"`
}

// Success says whether the task came to its end. Its recoveries mean nothing then.
func (t *Task) Success() bool { return t.State == "finished" }

// Ended says whether VDSM would do nothing more for the task.
func (t *Task) Ended() bool {
	return t.Success() || t.State == "recovered" || t.State == "failed"
}

// Meaning is a sentence about the state.
func (t *Task) Meaning() string {
	switch t.State {
	case "finished":
		return "it finished with success; the engine has not cleared it"
	case "recovered":
		return "it failed or was stopped, and was taken back; the engine has not cleared it"
	case "failed":
		return "it failed or was stopped, and could not be taken back; what it left is still there"
	case "aborting", "waitrecover":
		return "it was being stopped; what it had made was not taken back yet"
	case "recovering", "racquiring", "raborting":
		return "it was being taken back, and that did not come to its end"
	case "init", "preparing", "blocked", "acquiring", "queued":
		return "it had not begun its work, or just begun"
	case "running":
		return "it was at work and never ended"
	}
	return "its state is not known to this program; take it as not ended"
}

// Place names an image or a volume; Image or Volume is "" where the task does not say.
type Place struct {
	Domain, Image, Volume string
}

// making are the recoveries that take back what was newly made: what they name did not exist before the task.
var making = []string{
	"createImageRollback", "startCreateVolumeRollback", "halfbakedVolumeRollback", "createVolumeRollback", "shareVolumeRollback",
}

// Made is what the task was making when it last saved itself, as its recoveries say; nothing of a task that succeeded.
func (t *Task) Made() []Place {
	if t.Success() {
		return nil
	}
	var out []Place
	for _, r := range t.Recoveries {
		if !slices.Contains(making, r.Function[strings.LastIndex(r.Function, ".")+1:]) {
			continue
		}
		if p := placeOf(r.Params); p != (Place{}) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// placeOf reads a recovery's parameters: ids in the order domain, image, volume, which say most even where a path of the image follows;
// or a path in an image's directory; or the ids of domain and volume.
func placeOf(params []string) Place {
	var ids []string
	var at Place
	for _, s := range params {
		if param.ValidUUID(s) {
			ids = append(ids, s)
		} else if at == (Place{}) {
			at = inImages(s)
		}
	}
	switch {
	case len(ids) >= 3:
		return Place{ids[0], ids[1], ids[2]}
	case at != Place{}:
		return at
	case len(ids) == 2:
		return Place{Domain: ids[0], Volume: ids[1]}
	}
	return Place{}
}

// inImages reads a path that ends with <domain>/images/<image> or <domain>/images/<image>/<volume>.
func inImages(name string) Place {
	dirs := strings.Split(path.Clean(name), "/")
	i := slices.Index(dirs, "images")
	if i < 1 || len(dirs) < i+2 || len(dirs) > i+3 || !param.ValidUUID(dirs[i-1]) || !param.ValidUUID(dirs[i+1]) {
		return Place{}
	}
	p := Place{Domain: dirs[i-1], Image: dirs[i+1]}
	if len(dirs) == i+3 {
		p.Volume, _, _ = strings.Cut(dirs[i+2], ".")
		if !param.ValidUUID(p.Volume) {
			return Place{}
		}
	}
	return p
}

var anyUUID = regexp.MustCompile(`[a-f0-9]{8}-(?:[a-f0-9]{4}-){3}[a-f0-9]{12}`)

// IDs are all ids that the task names, each once, but for its own and for zeros.
func (t *Task) IDs() []string {
	var out []string
	note := func(texts ...string) {
		for _, s := range texts {
			for _, id := range anyUUID.FindAllString(s, -1) {
				if id != t.ID && id != string(param.Blank) && !slices.Contains(out, id) {
					out = append(out, id)
				}
			}
		}
	}
	for _, j := range t.Jobs {
		note(j.Args...)
		note(j.Raw)
	}
	for _, r := range t.Recoveries {
		note(r.Name)
		note(r.Params...)
	}
	return out
}
