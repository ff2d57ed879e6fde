package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units of sizes; the longer name stands before what it ends with.
var units = []struct {
	name string
	size float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"B", 1},
}

// ParseSize parses a number of bytes: "20GB", "1.5 TiB", "1000000". "off" is 0.
func ParseSize(s string) (int64, error) {
	if s == "off" {
		return 0, nil
	}
	number, factor := strings.TrimSpace(s), 1.0
	for _, u := range units {
		if cut := len(number) - len(u.name); cut > 0 && strings.EqualFold(number[cut:], u.name) {
			number, factor = strings.TrimSpace(number[:cut]), u.size
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if n *= factor; err != nil || strings.ContainsAny(number, "+-xXpPeEnN_") || n >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size such as 20GB or 512MiB", s)
	}
	return int64(n), nil
}

// FormatSize writes a size so that ParseSize reads it back: in the largest
// unit of which it is a whole number; 0 is "off".
func FormatSize(n int64) string {
	if n == 0 {
		return "off"
	}
	best, unit := n, "B"
	for _, u := range units {
		if size := int64(u.size); len(u.name) > 1 && n%size == 0 && n/size < best {
			best, unit = n/size, u.name
		}
	}
	return strconv.FormatInt(best, 10) + unit
}

type sizeValue int64

func (v *sizeValue) String() string { return FormatSize(int64(*v)) }

func (v *sizeValue) Set(s string) error {
	n, err := ParseSize(s)
	if err == nil {
		*v = sizeValue(n)
	}
	return err
}
