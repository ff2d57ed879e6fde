package cli

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// ParseDuration parses a duration of zero or more as package time does, with
// weeks and days besides ("5m", "30d", "2w", "1d12h"), or as ISO 8601 has it
// ("P30D", "PT12H"), but for months and years. A day has 24 hours.
func ParseDuration(s string) (time.Duration, error) {
	short := s
	if strings.HasPrefix(s, "P") {
		parts := iso8601.FindStringSubmatch(s)
		if parts == nil || strings.HasSuffix(s, "T") {
			return 0, notDuration(s)
		}
		if parts[1] != "" {
			return 0, fmt.Errorf("%q has months or years, whose length is not fixed; write it in days, as in P30D", s)
		}
		short = strings.ToLower(parts[2] + parts[3])
	}
	total := time.Duration(0)
	rest := short
	for _, unit := range []struct {
		name   string
		length time.Duration
	}{{"w", 7 * day}, {"d", day}} {
		count, after, ok := strings.Cut(rest, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(count, 10, 31)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/unit.length {
			return 0, notDuration(s)
		}
		total, rest = total+time.Duration(n)*unit.length, after
	}
	if rest == "" && short != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || total > math.MaxInt64-d {
		return 0, notDuration(s)
	}
	return total + d, nil
}

// iso8601 takes apart a duration of ISO 8601: years and months, weeks and days,
// the rest.
var iso8601 = regexp.MustCompile(`^P((?:\d+Y)?(?:\d+M)?)((?:\d+W)?(?:\d+D)?)(?:T((?:\d+H)?(?:\d+M)?(?:\d+S)?))?$`)

func notDuration(s string) error {
	return fmt.Errorf("%q is not a duration such as 30d, 5m or P30D", s)
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
