package summary

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// overTime shows how much the publications of this kind have taken over time,
// as a chart where that has changed, and the cache as a whole.
func overTime(r *report.Publish) string {
	if r.Stored == nil {
		return ""
	}
	var b strings.Builder
	picture := chart(r.History)
	title := "In the cache"
	if picture != "" {
		title = "Size over time"
	}
	b.WriteString("### " + title + "\n\n")
	if n := len(r.History); n > 0 {
		now := r.History[n-1]
		what := "The last complete publish takes"
		if r.Status == report.Done {
			what = "What is published here takes"
		}
		fmt.Fprintf(&b, "%s <b>%s</b> in the cache, in %s%s. ", what, ui.Bytes(now.FileSize), ui.Count(now.Paths, "path"), change(r.History))
	}
	fmt.Fprintf(&b, "The whole cache has %s, %s.\n\n", ui.Count(r.Stored.Paths, "path"), ui.Bytes(r.Stored.FileSize))
	return b.String() + picture
}

// change compares the last publication with the one before.
func change(history []collect.Past) string {
	n := len(history)
	if n < 2 {
		return ""
	}
	now, before := history[n-1].FileSize, history[n-2].FileSize
	switch {
	case now > before:
		return ", " + ui.Bytes(now-before) + " more than the time before"
	case now < before:
		return ", " + ui.Bytes(before-now) + " less than the time before"
	}
	return ", as the time before"
}

// Measures of the chart, in pixels: GitHub makes it smaller where it must.
const (
	chartHeight = 260
	chartMargin = 120 // for the axis at the left
	barWidth    = 60
	maxWidth    = 900
	letterWidth = 8
)

// chart draws sizes with Mermaid, whose version at GitHub, Gitea and Forgejo
// may be any that knows xychart-beta. Only numbers and dates are in it.
// With less than two different sizes there is nothing to see.
func chart(history []collect.Past) string {
	largest, different := int64(0), false
	for _, p := range history {
		largest = max(largest, p.FileSize)
		different = different || p.FileSize != history[0].FileSize
	}
	if !different {
		return ""
	}
	unit, size := unitOf(largest)
	labels, sizes := dates(history), make([]string, len(history))
	for i, p := range history {
		sizes[i] = strconv.FormatFloat(float64(p.FileSize)/size, 'f', 3, 64)
	}
	need := len(history) * max(barWidth, len(labels[0])*letterWidth)
	width := min(chartMargin+need, maxWidth)
	every := (need-1)/(maxWidth-chartMargin) + 1
	for i := range labels {
		if (len(labels)-1-i)%every != 0 {
			labels[i] = "" // there is no room
		}
		labels[i] = `"` + labels[i] + strings.Repeat(nothing, i+1) + `"`
	}
	return fmt.Sprintf("```mermaid\n"+
		`%%%%{init: {"xyChart": {"width": %d, "height": %d}, "themeVariables": {"xyChart": {"plotColorPalette": "#4493f8", "backgroundColor": "transparent"}}}}%%%%`+"\n"+
		"xychart-beta\n  x-axis [%s]\n  y-axis \"%s, compressed\" 0 --> %s\n  bar [%s]\n```\n\n",
		width, chartHeight, strings.Join(labels, ", "), unit, strconv.FormatFloat(above(float64(largest)/size), 'f', -1, 64), strings.Join(sizes, ", "))
}

// nothing is a character that does not show: Mermaid takes bars whose labels
// are the same, white space aside, for one, and an empty label for a mistake.
const nothing = "\u200b"

// dates labels publications, by the day if that tells them apart.
func dates(history []collect.Past) []string {
	layout, days := "Jan 2", map[string]bool{}
	for _, p := range history {
		days[p.Time.UTC().Format(time.DateOnly)] = true
	}
	if len(days) < len(history) {
		layout = "Jan 2 15:04"
	}
	var labels []string
	for _, p := range history {
		labels = append(labels, p.Time.UTC().Format(layout))
	}
	return labels
}

// unitOf returns the unit in which a size is a short number, and its bytes.
func unitOf(size int64) (string, float64) {
	unit, bytes := "B", 1.0
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if float64(size) < 1000*bytes {
			break
		}
		unit, bytes = u, 1000*bytes
	}
	return unit, bytes
}

// above is the next number that is good for the end of an axis.
func above(x float64) float64 {
	scale := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8} {
		if f*scale >= x {
			return math.Round(f*scale*1000) / 1000
		}
	}
	return 10 * scale
}
