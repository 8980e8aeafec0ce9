package qemuimg

import (
	"bytes"
	"strconv"
)

// MaxRate is the most bytes per second that QEMU takes for a limit.
const MaxRate = 1e15

// Percent finds the progress in what qemu-img -p prints: "    (12.01/100%)\r". It is a writer for its standard output.
type Percent struct {
	Report func(part float64) // 0 to 1
	rest   []byte
}

func (p *Percent) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	end := bytes.LastIndex(p.rest, []byte("/100%)"))
	if end < 0 {
		return len(b), nil
	}
	if begin := bytes.LastIndexByte(p.rest[:end], '('); begin >= 0 {
		if v, err := strconv.ParseFloat(string(p.rest[begin+1:end]), 64); err == nil && v >= 0 && v <= 100 {
			p.Report(v / 100)
		}
	}
	p.rest = append(p.rest[:0], p.rest[end+len("/100%)"):]...)
	return len(b), nil
}
