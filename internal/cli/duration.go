package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// ParseDuration parses a duration of zero or more as package time does, with
// days besides: "5m", "30d", "1d12h". A day has 24 hours.
func ParseDuration(s string) (time.Duration, error) {
	total := time.Duration(0)
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 31)
		if err != nil || n > uint64(math.MaxInt64/day) {
			return 0, fmt.Errorf("%q is not a duration such as 30d or 5m", s)
		}
		total, rest = time.Duration(n)*day, after
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || total > math.MaxInt64-d {
			return 0, fmt.Errorf("%q is not a duration such as 30d or 5m", s)
		}
		total += d
	} else if s == "" {
		return 0, fmt.Errorf("%q is not a duration such as 30d or 5m", s)
	}
	return total, nil
}

// FormatDuration writes a duration so that ParseDuration reads it back,
// without units that are zero: "30d", "5m", "1h30m".
func FormatDuration(d time.Duration) string {
	days, rest := d/day, d%day
	s := rest.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	switch {
	case days == 0:
		return s
	case rest == 0:
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dd%s", days, s)
}

type durationValue time.Duration

func (v *durationValue) String() string { return FormatDuration(time.Duration(*v)) }

func (v *durationValue) Set(s string) error {
	d, err := ParseDuration(s)
	if err == nil {
		*v = durationValue(d)
	}
	return err
}
