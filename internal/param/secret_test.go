package param

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestShown(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{`{"b": 1,  "a":2}`, `{"b": 1,  "a":2}`},
		{`{"user":"u","password":"p"}`, `{"password":"********","user":"u"}`},
		{`{"Password":{"a":"p"}}`, `{"Password":"********"}`},
		{`{"list":[{"connection":"c","iscsi":{"chapPassword":"p"}}]}`, `{"list":[{"connection":"c","iscsi":{"chapPassword":"********"}}]}`},
		{`{"_X_key":"p","big":12345678901234567890}`, `{"_X_key":"********","big":12345678901234567890}`},
		{`{"params":{"ticket":"p","otp":"p","token":"p","clientSecret":"p","passphrase":"p"}}`,
			`{"params":{"clientSecret":"********","otp":"********","passphrase":"********","ticket":"********","token":"********"}}`},
		{`["password"]`, `["password"]`},
		{`p`, `"********"`},
	} {
		if got := string(Shown(json.RawMessage(c.in))); got != c.want {
			t.Errorf("%s is shown as %s, want %s", c.in, got, c.want)
		}
	}
}

// A value that cannot be read is quoted in the error, but not the secrets in it.
func TestDecodeHidesSecrets(t *testing.T) {
	var p struct {
		Password int            `json:"password"`
		Options  map[string]int `json:"options" default:""`
	}
	for _, raw := range []string{`{"password":"hunter2"}`, `{"password":1,"options":{"a":"b","password":"hunter2"}}`} {
		err := Decode(json.RawMessage(raw), &p, Strict)
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), Hidden) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
