package copy

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// eachData calls each for the stretches of f between from and to that have data, in order, at block boundaries. A file
// system that cannot tell has one stretch.
func eachData(f *os.File, from, to int64, each func(start, end int64) error) error {
	for at := from; at < to; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		start, end = max(from, start&^(blockSize-1)), min(to, (end+blockSize-1)&^(blockSize-1))
		if start >= end {
			return nil
		}
		if err := each(start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// dataIn is how many bytes between from and to have data.
func dataIn(f *os.File, from, to int64) (n int64, err error) {
	err = eachData(f, from, to, func(start, end int64) error {
		n += end - start
		return nil
	})
	return n, err
}
