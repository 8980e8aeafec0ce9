package domain

import (
	"strings"
	"testing"

	"vdsm-agent/internal/code"
)

// TestContents: what is no disk of a guest lies in a volume's file, which keeps its shape.
func TestContents(t *testing.T) {
	x := newFixture(t)
	for _, c := range []struct {
		data  string
		shape Shape
		want  Shape
	}{
		{"", Shape{8192, false}, Shape{8192, false}},
		{"state", Shape{8192, true}, Shape{8192, true}},
		{"state", Shape{2, false}, Shape{5, true}}, // it is longer, and fills its only block
		{"", Shape{}, Shape{}},
	} {
		x.must(x.d.ReplaceContents(imgA, volLeaf, []byte(c.data), c.shape))
		shape, err := x.d.Shape(imgA, volLeaf)
		x.must(err)
		if shape != c.want {
			t.Errorf("%q in %v: it is %v", c.data, c.shape, shape)
		}
		got, err := x.d.ReadContents(imgA, volLeaf, 1<<20)
		x.must(err)
		if string(got) != c.data+strings.Repeat("\x00", int(c.want.Length)-len(c.data)) {
			t.Errorf("%q in %v: read %q", c.data, c.shape, got)
		}
	}
	if _, err := x.d.Shape(imgA, nowhere); code.Of(err) != code.VolumeDoesNotExist {
		t.Errorf("no such volume: %v", err)
	}
	if err := x.d.ReplaceContents(imgA, nowhere, nil, Shape{}); code.Of(err) != code.VolumeDoesNotExist {
		t.Errorf("no such volume: %v", err)
	}
}
