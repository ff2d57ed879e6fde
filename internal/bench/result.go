package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/ui"
)

// result is what a run prints.
type result struct {
	Machine     machine   `json:"machine"`
	Scale       float64   `json:"scale"`
	Repetitions int       `json:"repetitions"`
	Seconds     float64   `json:"seconds"`
	Sections    []section `json:"sections"`
}

// section is a table.
type section struct {
	Title string `json:"title"`
	// About says what was worked on.
	About string   `json:"about"`
	Rows  []figure `json:"rows"`
}

// figure is something that was measured once or several times.
type figure struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Median  float64   `json:"median"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
}

// add adds a sample to the figure of that name, which it makes if needed.
func (s *section) add(name, unit string, value float64) {
	i := slices.IndexFunc(s.Rows, func(f figure) bool { return f.Name == name })
	if i < 0 {
		s.Rows = append(s.Rows, figure{Name: name, Unit: unit})
		i = len(s.Rows) - 1
	}
	f := &s.Rows[i]
	f.Samples = append(f.Samples, value)
	f.Median, f.Min, f.Max = median(f.Samples), slices.Min(f.Samples), slices.Max(f.Samples)
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// number writes three digits that count, and all those before the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 99.95 || v == math.Trunc(v):
		return ui.Number(int(math.RoundToEven(v)))
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.0995:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func (f figure) cells() []string {
	c := []string{f.Name, number(f.Median), f.Unit, "", ""}
	if len(f.Samples) > 1 {
		c[3], c[4] = number(f.Min), number(f.Max)
	}
	return c
}

func (r result) intro() string {
	return fmt.Sprintf("%s; %s, scale %s, took %.0f s.", r.Machine, ui.Count(r.Repetitions, "repetition"), number(r.Scale), r.Seconds)
}

// markdown is the result, for a terminal and for a document.
func (r result) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.intro())
	for _, s := range r.Sections {
		b.WriteString(heading + s.markdown())
	}
	return b.String()
}

const heading = "\n### "

// markdown is the section, behind the heading's mark.
func (s section) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s\n\n| | median | | min | max |\n|---|---:|---|---:|---:|\n", s.Title, s.About)
	for _, f := range s.Rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(f.cells(), " | "))
	}
	return b.String()
}

// into replaces the sections of a document that the result has too, and appends
// those that are new.
func (r result) into(old string) string {
	all := strings.Split(strings.Trim(old, "\n")+"\n", heading)
	for _, s := range r.Sections {
		s.About += "\n\nMeasured in a run of its own: " + r.intro()
		i := slices.IndexFunc(all, func(o string) bool { return strings.HasPrefix(o, s.Title+"\n") })
		if i < 0 {
			all, i = append(all, ""), len(all)
		}
		all[i] = s.markdown()
	}
	return strings.Join(all, heading)
}

const (
	beginMark = "<!-- bench begins -->\n"
	endMark   = "<!-- bench ends -->\n"
)

// updateDoc replaces what stands between the marks in a file: all of it, or
// what parts of the measurements have given anew.
func updateDoc(name string, r result, parts bool) error {
	old, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(old), beginMark)
	body, tail, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", name, strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	text := r.markdown()
	if parts {
		text = r.into(body)
	}
	return os.WriteFile(name, []byte(head+beginMark+"\n"+text+"\n"+endMark+tail), 0o644) //nolint:gosec // a document
}
