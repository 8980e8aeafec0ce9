package qemuimg_test

import (
	"reflect"
	"testing"

	"vdsm-agent/storageops/qemuimg"
)

func TestPercent(t *testing.T) {
	var got []float64
	p := &qemuimg.Percent{Report: func(part float64) { got = append(got, part) }}
	for _, s := range []string{"    (0.00/100%)\r    (12.", "50/100%)\r", "", "noise", "    (99.00/100%)\r    (100.00/100%)\r"} {
		if n, err := p.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := []float64{0, 0.125, 1}; !reflect.DeepEqual(got, want) {
		t.Fatalf("%v", got)
	}
}
