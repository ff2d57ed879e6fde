package ui

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bytes writes a size in decimal units: "999 B", "1.2 kB", "12.3 MB", "123 GB".
func Bytes(n int64) string {
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	unit := -1
	// 999,500 B is 1.0 MB, not 1000 kB
	for v >= 999.5 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	if v < 99.95 {
		return fmt.Sprintf("%.1f %cB", v, units[unit])
	}
	return fmt.Sprintf("%.0f %cB", v, units[unit])
}

const units = "kMGTPE"

// Duration writes a time for people: "0.3 s", "12 s", "3 min 20 s", "2 h 05 min".
func Duration(d time.Duration) string {
	switch s := d.Seconds(); {
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 59.5:
		return fmt.Sprintf("%.0f s", s)
	case s < 3599.5:
		t := int(s + 0.5)
		return fmt.Sprintf("%d min %02d s", t/60, t%60)
	default:
		t := int(s/60 + 0.5)
		return fmt.Sprintf("%d h %02d min", t/60, t%60)
	}
}

// Ratio writes part as a percentage of whole: "37 %"; "-" if whole is 0.
func Ratio(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(part)/float64(whole))
}

// Number writes n with separators: "12,345".
func Number(n int) string {
	digits := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, digits = "-", digits[1:]
	}
	var b strings.Builder
	for i, c := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return sign + b.String()
}

// Count writes a number of things: "1 path", "12,345 paths".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Number(n) + " " + noun + "s"
}

// Few joins a list, cut short where it would be tiresome.
func Few(list []string) string {
	const few = 5
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

// Table aligns rows in columns, two spaces apart, a line each. A column whose
// cells all start with a digit (or are "" or "-") is aligned to the right;
// header, if not nil, is the first line and does not count for that.
func Table(header []string, rows [][]string) string {
	var width []int
	var left []bool
	measure := func(row []string, isHeader bool) {
		for i, cell := range row {
			if i == len(width) {
				width, left = append(width, 0), append(left, false)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
			left[i] = left[i] || !isHeader && cell != "" && cell != "-" && (cell[0] < '0' || cell[0] > '9')
		}
	}
	measure(header, true)
	for _, row := range rows {
		measure(row, false)
	}
	var b strings.Builder
	for i, row := range append([][]string{header}, rows...) {
		if i == 0 && header == nil {
			continue
		}
		var line strings.Builder
		for j, cell := range row {
			pad := strings.Repeat(" ", width[j]-utf8.RuneCountInString(cell))
			if left[j] {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// Cut shortens text to at most n bytes, and a mark that something is missing.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
