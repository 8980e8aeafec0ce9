package benchkit

import (
	"errors"
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

// ByTurns measures both sides so many times.
func ByTurns(rounds int, base, ours func() (float64, error)) (Pair, error) {
	var p Pair
	for range rounds {
		if err := p.Measure(base, ours); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Measure measures both sides once more, one after the other, and the other way round every second time, so that what else the
// machine does hits both.
func (p *Pair) Measure(base, ours func() (float64, error)) error {
	if len(p.Base)%2 == 0 {
		return errors.Join(add(&p.Base, base), add(&p.Ours, ours))
	}
	return errors.Join(add(&p.Ours, ours), add(&p.Base, base))
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
