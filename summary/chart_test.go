package summary

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/report"
)

// sizes is a history of so many bytes each, published every so often.
func sizes(every time.Duration, bytes ...int64) []collect.Past {
	var h []collect.Past
	at := time.Date(2026, 11, 20, 22, 30, 0, 0, time.UTC)
	for i, n := range bytes {
		h = append(h, collect.Past{Time: at.Add(time.Duration(i) * every), Total: index.Total{Paths: i + 1, NarSize: 3 * n, FileSize: n}})
	}
	return h
}

func TestChart(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, tc := range []struct {
		name         string
		history      []collect.Past
		x, y, values string
	}{
		{"days", sizes(day, 1_200_000_000, 1_234_567_890, 999_000_000), `"Nov 20", "Nov 21", "Nov 22"`, `"GB, compressed" 0 --> 1.5`, "1.200, 1.235, 0.999"},
		{"hours", sizes(time.Hour, 1000, 2500), `"Nov 20 22:30", "Nov 20 23:30"`, `"kB, compressed" 0 --> 2.5`, "1.000, 2.500"},
		{"seconds", sizes(time.Second, 10, 9), `"Nov 20 22:30", "Nov 20 22:30"`, `"B, compressed" 0 --> 10`, "10.000, 9.000"},
		{"years", sizes(365*day, 5e6, 6e6), `"Nov 20", "Nov 20"`, `"MB, compressed" 0 --> 6`, "5.000, 6.000"},
		{"from nothing", sizes(day, 0, 820_000), `"Nov 20", "Nov 21"`, `"kB, compressed" 0 --> 1000`, "0.000, 820.000"},
	} {
		got := strings.ReplaceAll(chart(tc.history), nothing, "")
		for _, want := range []string{"x-axis [" + tc.x + "]\n", "y-axis " + tc.y + "\n", "bar [" + tc.values + "]\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: got\n%s, want %s", tc.name, got, want)
			}
		}
	}
	for name, h := range map[string][]collect.Past{"none": nil, "one": sizes(day, 5), "no change": sizes(day, 5, 5, 5)} {
		if got := chart(h); got != "" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// Mermaid draws labels over each other, and takes equal ones for one: some are
// blank, all differ, and the last one is there.
func TestChartLabels(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{time.Second, time.Hour, 24 * time.Hour} {
		bytes := make([]int64, 20)
		for i := range bytes {
			bytes[i] = int64(i + 1)
		}
		text := regexp.MustCompile(`x-axis \[(.*)\]`).FindStringSubmatch(chart(sizes(every, bytes...)))[1]
		seen, room := map[string]bool{}, 0
		labels := strings.Split(text, ", ")
		if strings.Contains(text, `""`) {
			t.Errorf("Mermaid takes no empty label: %s", text)
		}
		for _, l := range labels {
			if seen[strings.Join(strings.Fields(l), "")] {
				t.Errorf("%s twice in %s", l, text)
			}
			seen[strings.Join(strings.Fields(l), "")] = true
			if shown := strings.Trim(l, `"`+nothing); shown != "" {
				room += len(shown) * letterWidth
			}
		}
		if len(labels) != 20 || room > maxWidth || strings.Trim(labels[19], `"`+nothing) == "" {
			t.Errorf("every %s: got %s", every, text)
		}
	}
}

func TestOverTime(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status report.Status
		sizes  []int64
		want   string
	}{
		{"done", []int64{5000}, "What is published here takes <b>5.0 kB</b> in the cache, in 1 path. The whole cache has 9 paths, 12.0 kB."},
		{"done", []int64{5000, 6000}, "takes <b>6.0 kB</b> in the cache, in 2 paths, 1.0 kB more than the time before. "},
		{"done", []int64{5000, 4000}, "takes <b>4.0 kB</b> in the cache, in 2 paths, 1.0 kB less than the time before. "},
		{"done", []int64{5000, 5000}, "takes <b>5.0 kB</b> in the cache, in 2 paths, as the time before. "},
		{"partly", []int64{5000}, "The last complete publish takes <b>5.0 kB</b> in the cache, in 1 path. "},
		{"partly", nil, "\n\nThe whole cache has 9 paths, 12.0 kB."},
	} {
		r := report.Publish{Status: tc.status, Stored: &report.Stored{Paths: 9, FileSize: 12_000}, History: sizes(24*time.Hour, tc.sizes...)}
		if got := overTime(&r); !strings.Contains(got, tc.want) {
			t.Errorf("%s, %v: got %q, want %q", tc.status, tc.sizes, got, tc.want)
		}
	}
	if got := overTime(&report.Publish{}); got != "" {
		t.Errorf("without a cache: got %q", got)
	}
}
