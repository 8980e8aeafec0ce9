package param

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"vdsm-agent/internal/code"
)

// everything has a parameter of each type.
type everything struct {
	ID         UUID        `json:"id" doc:"which"`
	Size       Size        `json:"size" default:""`
	Force      Bool        `json:"force" default:"false"`
	Count      Int         `json:"count" default:"7"`
	Wait       Seconds     `json:"wait" default:"0"`
	Format     Format      `json:"format" default:"RAW"`
	Allocation Allocation  `json:"allocation" default:"SPARSE"`
	VolType    VolType     `json:"volType" default:"LEAF"`
	Operation  Operation   `json:"operation" default:"COPY"`
	Sync       SyncType    `json:"sync" default:"ALL"`
	Domain     DomainType  `json:"domain" default:"LOCALFS"`
	Class      DomainClass `json:"class" default:"Data"`
	Disk       DiskType    `json:"disk" default:"DATA"`
	Text       string      `json:"text" default:"it's \"so\""`
	Number     int         `json:"number" default:"3"`
	Ratio      float64     `json:"ratio" default:"0.5"`
	Plain      bool        `json:"plain" default:"true"`
	List       []UUID      `json:"list" default:"[]"`
	Inner      struct {
		A int `json:"a"`
	} `json:"inner" default:"{\"a\":1}"`
	Hidden  string `json:"-"`
	private string //nolint:unused // that it is left out is what is tested
	NoTag   string
}

const someID = "01234567-89ab-cdef-0123-456789abcdef"

// defaults is what everything is when only the id is given.
func defaults() everything {
	e := everything{
		ID: someID, Count: 7, Format: RAW, Allocation: Sparse, VolType: Leaf, Operation: Copy, Sync: SyncAll, Domain: "LOCALFS", Class: "Data", Disk: "DATA",
		Text: `it's "so"`, Number: 3, Ratio: 0.5, Plain: true, List: []UUID{},
	}
	e.Inner.A = 1
	return e
}

func TestDecodeDefaults(t *testing.T) {
	for _, raw := range []string{`{"id":"` + someID + `"}`, ` { "id" : "` + someID + `" , "size":null,"list":null,"text": null} `} {
		var got everything
		if err := Decode(json.RawMessage(raw), &got, Strict); err != nil {
			t.Fatal(err)
		}
		if want := defaults(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", raw, got, want)
		}
	}
}

// TestDecodeValues gives one parameter at a time; want is the error, or what that parameter becomes.
func TestDecodeValues(t *testing.T) {
	long := strings.Repeat("é", 1000)
	cases := []struct {
		name, value string
		want        any
		err         string
	}{
		{"id", `"01234567-89AB-cdef-0123-456789abcdef"`, nil, "is not a UUID (lower case, 8-4-4-4-12 digits)"},
		{"id", `""`, nil, `parameter "id": "" is not a UUID`},
		{"id", `7`, nil, `parameter "id": 7 is not a string`},
		{"id", `null`, nil, `parameter "id" is missing`},
		{"id", `"` + someID + `\n"`, nil, "is not a UUID"},
		{"id", `"` + long + `"`, nil, strings.Repeat("é", 30) + `…" is not a UUID`},
		{"size", `"0"`, Size(0), ""},
		{"size", `"70368744177664"`, Size(MaxSize), ""},
		{"size", `"70368744177665"`, nil, "more than a volume may have (70368744177664, 64 TiB)"},
		{"size", `"99999999999999999999999"`, nil, "more than a volume may have"},
		{"size", `"-1"`, nil, "-1 bytes is negative"},
		{"size", `"-99999999999999999999999"`, nil, "is not a number of bytes"},
		{"size", `"1G"`, nil, `"1G" is not a number of bytes (a decimal string such as "1073741824")`},
		{"size", `"1.5"`, nil, "is not a number of bytes"},
		{"size", `" 1"`, nil, "is not a number of bytes"},
		{"size", `""`, nil, "is not a number of bytes"},
		{"size", `1073741824`, nil, "1073741824 is not a string"},
		{"force", `true`, Bool(true), ""},
		{"force", `"TRUE"`, Bool(true), ""},
		{"force", `"false"`, Bool(false), ""},
		{"force", `"yes"`, Bool(false), ""},
		{"force", `1`, nil, "1 is not true or false"},
		{"force", `{}`, nil, "{} is not true or false"},
		{"count", `5`, Int(5), ""},
		{"count", `"-5"`, Int(-5), ""},
		{"count", `5.0`, nil, `"5.0" is not a whole number`},
		{"count", `"x"`, nil, `"x" is not a whole number`},
		{"count", `true`, nil, `"true" is not a whole number`},
		{"count", `9223372036854775808`, nil, "is not a whole number"},
		{"wait", `2.5`, Seconds(2.5), ""},
		{"wait", `"10"`, Seconds(10), ""},
		{"wait", `31536000`, Seconds(31536000), ""},
		{"wait", `31536001`, nil, "is not a number of seconds from 0 to 31536000"},
		{"wait", `-0.1`, nil, "is not a number of seconds"},
		{"wait", `"NaN"`, nil, "is not a number of seconds"},
		{"wait", `"inf"`, nil, "is not a number of seconds"},
		{"wait", `[1]`, nil, `"[1]" is not a number of seconds`},
		{"format", `4`, COW, ""},
		{"format", `"5"`, RAW, ""},
		{"format", `"cow"`, COW, ""},
		{"format", `3`, nil, `"3" is none of COW, RAW`},
		{"format", `"qcow2"`, nil, `"qcow2" is none of COW, RAW`},
		{"allocation", `1`, Preallocated, ""},
		{"allocation", `"sparse"`, Sparse, ""},
		{"allocation", `0`, nil, "is none of PREALLOCATED, SPARSE"},
		{"volType", `6`, Shared, ""},
		{"volType", `"Internal"`, Internal, ""},
		{"volType", `9`, nil, "is none of INTERNAL, LEAF, SHARED"},
		{"domain", `6`, DomainType("POSIXFS"), ""},
		{"domain", `"SHAREDFS"`, DomainType("POSIXFS"), ""},
		{"domain", `0`, nil, "is none of CIFS, FCP, GLUSTERFS, ISCSI, LOCALFS, NFS, POSIXFS"},
		{"class", `3`, DomainClass("Backup"), ""},
		{"class", `"data"`, DomainClass("Data"), ""},
		{"class", `4`, nil, "is none of Backup, Data, Iso"},
		{"disk", `"2"`, DiskType("2"), ""},
		{"disk", `"OVFS"`, DiskType("OVFS"), ""},
		{"disk", `"tape"`, nil, `"tape" is none of 1, 2, DATA`},
		{"text", `"x"`, "x", ""},
		{"text", `7`, nil, `parameter "text": 7 is not a string`},
		{"number", `7`, 7, ""},
		{"number", `"7"`, nil, `"7" is not a whole number`},
		{"number", `1e30`, nil, "is not a whole number in its range"},
		{"ratio", `{}`, nil, "{} is not a number"},
		{"plain", `"true"`, nil, `"true" is not true or false`},
		{"list", `["` + someID + `"]`, []UUID{someID}, ""},
		{"list", `["x"]`, nil, `parameter "list": "x" is not a UUID`},
		{"list", `[null]`, nil, `parameter "list": "" is not a UUID`},
		{"list", `"` + someID + `"`, nil, "is not a list"},
		{"inner", `[]`, nil, "[] is not an object"},
		{"inner", `{"a":"x"}`, nil, "is not a whole number"},
	}
	for _, c := range cases {
		t.Run(c.name+"="+shorten(c.value), func(t *testing.T) {
			given := map[string]json.RawMessage{"id": json.RawMessage(`"` + someID + `"`)}
			given[c.name] = json.RawMessage(c.value)
			raw, err := json.Marshal(given)
			if err != nil {
				t.Fatal(err)
			}
			var got everything
			err = Decode(raw, &got, Strict)
			if c.err != "" {
				wantRefused(t, err, c.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v := reflect.ValueOf(got)
			for i := range v.NumField() {
				if name, ok := nameOf(v.Type().Field(i)); ok && name == c.name && !reflect.DeepEqual(v.Field(i).Interface(), c.want) {
					t.Errorf("it becomes %v, want %v", v.Field(i), c.want)
				}
			}
		})
	}
}

func wantRefused(t *testing.T, err error, text string) {
	t.Helper()
	if code.Of(err) != code.InvalidParameter || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %d %v, want 1000 with %s", code.Of(err), err, text)
	}
}

func TestDecodeObjects(t *testing.T) {
	type two struct {
		A string `json:"a" default:""`
		B string `json:"b" default:""`
	}
	cases := []struct {
		raw    string
		strict Strictness
		err    string
	}{
		{``, Strict, ""}, {`null`, Strict, ""}, {` `, Strict, ""}, {`{}`, Strict, ""},
		{`[]`, Lenient, "the parameters must be a JSON object"},
		{`7`, Lenient, "the parameters must be a JSON object"},
		{`{"a"`, Lenient, "the parameters must be a JSON object"},
		{`{"c":1}`, Lenient, ""},
		{`{"c":1}`, Strict, `there is no parameter "c"; this verb takes a, b`},
		{`{"A":"x"}`, Strict, `there is no parameter "A"`},
		{`{"d":1,"c":1}`, Strict, `there is no parameter "c"`},
		{`{"` + strings.Repeat("c", 1000) + `":1}`, Strict, `cc…"; this verb takes a, b`},
	}
	for _, c := range cases {
		var got two
		switch err := Decode(json.RawMessage(c.raw), &got, c.strict); {
		case c.err != "":
			wantRefused(t, err, c.err)
		case err != nil || got != two{}:
			t.Errorf("%s: %+v, %v", c.raw, got, err)
		}
	}
	wantRefused(t, Decode(json.RawMessage(`{"a":1}`), &None{}, Strict), "this verb takes none")
}

func TestDescribe(t *testing.T) {
	want := map[string]Field{
		"id":     {"id", "UUID", false, "", "which"},
		"size":   {"size", "bytes", true, "", ""},
		"wait":   {"wait", "seconds", true, "0", ""},
		"format": {"format", "COW|RAW", true, "RAW", ""},
		"class":  {"class", "Backup|Data|Iso", true, "Data", ""},
		"list":   {"list", "slice", true, "[]", ""},
		"inner":  {"inner", "struct", true, `{"a":1}`, ""},
		"force":  {"force", "bool", true, "false", ""},
	}
	fields := Describe(&everything{})
	if !reflect.DeepEqual(fields, Describe(everything{})) {
		t.Error("a pointer is described otherwise")
	}
	if len(fields) != 19 || fields[0].Name != "id" || fields[18].Name != "inner" {
		t.Errorf("it has %+v", fields)
	}
	for _, f := range fields {
		if w, tested := want[f.Name]; tested && f != w {
			t.Errorf("got %+v, want %+v", f, w)
		}
	}
	if len(Describe(None{})) != 0 {
		t.Error("none has some")
	}
}

func TestBlank(t *testing.T) {
	for u, want := range map[UUID]bool{"": true, Blank: true, someID: false} {
		if u.IsBlank() != want {
			t.Errorf("%q", u)
		}
	}
	if !ValidUUID(someID) || ValidUUID(someID+" ") || ValidUUID("{"+someID+"}") {
		t.Error("what a UUID is")
	}
}

// FuzzDecode gives any JSON: it is refused with 1000 and a short sentence, or what it becomes stays the same when it
// is written and read again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `{"id":"` + someID + `"}`, `{"id":"` + someID + `","size":"1","force":"True","count":"-1","wait":"1.5","format":5}`,
		`{"id":"` + someID + `","list":[null],"inner":{"A":1}}`, `{"id":"` + someID + `","volType":7,"domain":"nfs","disk":1}`,
		`{"id":"` + someID + `","wait":1e-300,"ratio":1e308}`, `{"id":"` + someID + `","text":"\ud800"}`, "{\"id\":\"\xff\"}", `{"id":"` + strings.Repeat("\U0001F600", 50) + `"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var first, second everything
		if err := Decode(raw, &first, Lenient); err != nil {
			if code.Of(err) != code.InvalidParameter || len(err.Error()) > 1000 || utf8.Valid(raw) && !utf8.ValidString(err.Error()) {
				t.Fatalf("refused with %d: %s", code.Of(err), err)
			}
			return
		}
		if !ValidUUID(string(first.ID)) || first.Size < 0 || first.Size > MaxSize || first.Wait < 0 {
			t.Fatalf("taken: %+v", first)
		}
		again, err := json.Marshal(map[string]any{
			"id": first.ID, "size": jsonText(t, first.Size), "force": first.Force, "count": first.Count, "wait": first.Wait, "format": first.Format,
			"allocation": first.Allocation, "volType": first.VolType, "operation": first.Operation, "sync": first.Sync, "domain": first.Domain, "class": first.Class, "disk": first.Disk, "text": first.Text,
			"number": first.Number, "ratio": first.Ratio, "plain": first.Plain, "list": first.List, "inner": first.Inner,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(again, &second, Strict); err != nil {
			t.Fatalf("%s is not taken again: %v", again, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v became %+v", first, second)
		}
	})
}

// jsonText is a number as a decimal string.
func jsonText(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
