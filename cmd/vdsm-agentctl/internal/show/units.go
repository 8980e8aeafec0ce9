package show

import (
	"fmt"
	"time"
)

// Size writes bytes in binary units: "0 B", "512 B", "3.8 GiB", "64.0 TiB". Three digits at most before the unit.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for ; v >= 1023.95 && unit < len(units)-1; unit++ { // 1023.95 would be written as 1024.0
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}

const units = "KMGTPE"

// Rate writes bytes per second; "" when the rate is not known (0).
func Rate(perSecond float64) string {
	if perSecond <= 0 {
		return ""
	}
	return Size(int64(perSecond)) + "/s"
}

// Span writes a length of time with its largest unit, and the next one where that says more: "0 s", "42 s", "3 min",
// "2 h 5 min", "4 d 3 h". A negative one counts as 0.
func Span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 24*time.Hour:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	return two(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
}

func two(large time.Duration, unit string, small time.Duration, smallUnit string) string {
	if small == 0 {
		return fmt.Sprintf("%d %s", large, unit)
	}
	return fmt.Sprintf("%d %s %d %s", large, unit, small, smallUnit)
}

// Relative writes t as seen from now: "just now", "3 min ago", "in 23 h"; "-" for the zero time.
func Relative(now, t time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "-"
	case d >= time.Second:
		return Span(d) + " ago"
	case d <= -time.Second:
		return "in " + Span(-d)
	}
	return "just now"
}

// Time writes a moment in local time; "-" for the zero time.
func Time(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// Percent is how much of total is done, in whole percent from 0 to 100; rounded down, so that 100 means all of it.
func Percent(done, total int64) int {
	if total <= 0 {
		return 0
	}
	return int(min(max(float64(done)/float64(total), 0), 1) * 100)
}
