package verbargs

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"vdsm-agent/internal/param"
)

// everything has a parameter of every kind that a verb may have.
type everything struct {
	Pool    param.UUID      `json:"storagepoolID"`
	Size    param.Size      `json:"size"`
	Format  param.Format    `json:"volFormat" default:"RAW"`
	Force   param.Bool      `json:"force" default:"false"`
	Plain   bool            `json:"plain" default:"false"`
	Count   param.Int       `json:"count" default:"0"`
	Ratio   float64         `json:"ratio" default:"0"`
	Number  uint16          `json:"number" default:"0"`
	Wait    param.Seconds   `json:"wait" default:"0"`
	Volumes []param.UUID    `json:"volumes" default:"[]"`
	Map     map[string]int  `json:"map" default:"{}"`
	Struct  struct{ A int } `json:"struct" default:"{}"`
	Any     any             `json:"any" default:"{}"`
}

var takes = param.Describe(everything{})

func TestSet(t *testing.T) {
	for _, c := range []struct{ word, want, fails string }{
		{word: "size=1024", want: `{"size":"1024"}`},
		{word: "size:=1024", want: `{"size":1024}`},
		{word: "size=", want: `{"size":""}`},
		{word: "size=a=b:=c", want: `{"size":"a=b:=c"}`},
		{word: `size="x"`, want: `{"size":"\"x\""}`},
		{word: "volFormat=4", want: `{"volFormat":"4"}`},
		{word: "force=True", want: `{"force":true}`},
		{word: "plain=false", want: `{"plain":false}`},
		{word: "plain=1", fails: `parameter "plain": "1" is not true or false`},
		{word: "count=-5", want: `{"count":-5}`},
		{word: "count=", fails: `parameter "count": "" is not a number`},
		{word: "count=true", fails: `parameter "count": "true" is not a number`},
		{word: "ratio=0.5", want: `{"ratio":0.5}`},
		{word: "number=12345678901234567890", want: `{"number":12345678901234567890}`},
		{word: "wait=2.5", want: `{"wait":2.5}`},
		{word: "wait=2m", fails: `parameter "wait": "2m" is not a number`},
		{word: `volumes=["a"]`, want: `{"volumes":["a"]}`},
		{word: `volumes={"a":1}`, fails: `parameter "volumes": "{\"a\":1}" is not a list; write it as JSON, such as ["a","b"]`},
		{word: `map={"a":1}`, want: `{"map":{"a":1}}`},
		{word: `map=a`, fails: `parameter "map": "a" is not an object; write it as JSON, such as {"key":"value"}`},
		{word: `struct={"A":1}`, want: `{"struct":{"A":1}}`},
		{word: `struct=/srv/fast`, want: `{"struct":"/srv/fast"}`},
		{word: `any=[1]`, want: `{"any":[1]}`},
		{word: `any:=[1`, fails: `parameter "any": "[1" is not JSON; strings need quotes after :=`},
		{word: "size", fails: `"size" is neither key=value nor key:=JSON`},
		{word: ":=1", fails: `":=1" is neither key=value nor key:=JSON`},
		{word: "sise=1", fails: `there is no parameter "sise"; this verb takes storagepoolID, size, `},
		{word: "size:=" + strings.Repeat("x", 50), fails: `parameter "size": "` + strings.Repeat("x", 40) + `…" is not JSON`},
	} {
		p := Params{}
		err := p.Set([]string{c.word}, takes)
		got, merr := json.Marshal(p)
		if merr != nil {
			t.Fatal(merr)
		}
		switch {
		case c.fails == "" && (err != nil || string(got) != c.want):
			t.Errorf("%s: %s, %v; want %s", c.word, got, err, c.want)
		case c.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), c.fails)):
			t.Errorf("%s: %v, want %s", c.word, err, c.fails)
		}
	}
	if err := (Params{}).Set([]string{"size=1", "size:=2"}, takes); err == nil || err.Error() != `parameter "size" is given twice` {
		t.Error(err)
	}
	if err := (Params{}).Set([]string{"size=1"}, nil); err == nil || err.Error() != `there is no parameter "size"; this verb takes none` {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	p := Params{}
	if err := p.Check(takes); err == nil || err.Error() != "parameters are missing: storagepoolID, size" {
		t.Error(err)
	}
	p.Default("storagepoolID", "none", takes)
	p.Default("storagepoolID", "other", takes)
	p.Default("absent", "x", takes)
	if err := p.Check(takes); err == nil || err.Error() != `parameter "size" is missing` {
		t.Error(err)
	}
	if len(p) != 1 || string(p["storagepoolID"]) != `"none"` {
		t.Errorf("%s", p)
	}
	p["size"] = json.RawMessage(`"1"`)
	if err := p.Check(takes); err != nil {
		t.Error(err)
	}
	p["sise"] = p["size"]
	if err := p.Check(takes); err == nil || !strings.HasPrefix(err.Error(), `there is no parameter "sise"`) {
		t.Error(err)
	}
}

func TestTypeWord(t *testing.T) {
	want := "UUID bytes COW|RAW boolean boolean number number number seconds list object object object"
	var got []string
	for _, f := range takes {
		got = append(got, TypeWord(f))
	}
	if strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct{ text, fails string }{
		{text: ` {"a": 12345678901234567890, "b": {"c": [1]}} `},
		{text: "{\n\"a\": 1\n\"b\": 2}", fails: "f is not JSON: line 3, column 1: "},
		{text: "", fails: "f is not JSON: line 1, column 1: "},
		{text: "{}{}", fails: "f is not JSON: line 1, column 3: "},
		{text: `"x"`, fails: "f must be a JSON object with a value for each parameter"},
		{text: "null", fails: "f must be a JSON object with a value for each parameter"},
		{text: strings.Repeat(" ", MaxFile+1), fails: "f is larger than the 16 MiB that the daemon takes in one request"},
	} {
		p, err := Read(strings.NewReader(c.text), "f")
		switch {
		case c.fails == "" && (err != nil || string(p["a"]) != "12345678901234567890"):
			t.Errorf("%s: %v, %v", c.text, p, err)
		case c.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), c.fails)):
			t.Errorf("%.40s: %v, want %s", c.text, err, c.fails)
		}
	}
	broken := errors.New("input/output error")
	if _, err := Read(io.MultiReader(strings.NewReader("{"), iotest.ErrReader(broken)), "f"); !errors.Is(err, broken) {
		t.Error(err)
	}
}
