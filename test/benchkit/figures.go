package benchkit

import (
	"fmt"
	"slices"
	"time"
)

// Median is the middle of some values.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile is the value below which such a part of them is: 0.99 of 100 is the last but one.
func Quantile(values []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

// Millis is a time in milliseconds.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Pair is what two sides gave in each round.
type Pair struct{ Base, Ours []float64 }

// ByTurns measures both sides so many times, one after the other, and the other way round in every second round, so that what
// else the machine does hits both.
func ByTurns(rounds int, base, ours func() (float64, error)) (Pair, error) {
	var p Pair
	for i := range rounds {
		first := func() error { return add(&p.Base, base) }
		second := func() error { return add(&p.Ours, ours) }
		if i%2 == 1 {
			first, second = second, first
		}
		if err := first(); err != nil {
			return p, err
		}
		if err := second(); err != nil {
			return p, err
		}
	}
	return p, nil
}

func add(to *[]float64, measure func() (float64, error)) error {
	v, err := measure()
	*to = append(*to, v)
	return err
}

// Ratio is the median of the quotients of the rounds.
func (p Pair) Ratio() float64 {
	var out []float64
	for i, b := range p.Base {
		out = append(out, p.Ours[i]/b)
	}
	return Median(out)
}

// Verdict says whether a figure meets its bound.
func Verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// AtLeast writes a figure's bound and whether it is met.
func AtLeast(figure, bound float64) string {
	return fmt.Sprintf("at least %g: %s", bound, Verdict(figure >= bound))
}

// AtMost is AtLeast for an upper bound.
func AtMost(figure, bound float64) string {
	return fmt.Sprintf("at most %g: %s", bound, Verdict(figure <= bound))
}
