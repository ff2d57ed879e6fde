package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/ui"
)

// growthChart shows how large the cache had become with each publication, as
// far as it is there now.
type growthChart struct {
	// Wide and Narrow are the same at two widths: text in a picture that
	// shrinks with the screen cannot be read.
	Wide, Narrow drawing
	Summary      string
	Rows         []growth // newest first, only those that added something
	More         int      // rows that are left out
}

// drawing is the geometry of a chart in pixels.
type drawing struct {
	ID                       string
	Width, Height            int
	Left, Right, Top, Bottom int
	Line, Area               string // of an SVG path
	Y                        []tick
	X                        []tick
	EndX, EndY               string
}

type tick struct {
	At     string
	Label  string
	Anchor string
}

// chart is nil where there is nothing to see: less than two sizes.
func (c *catalogue) chart() *growthChart {
	var steps []growth
	for _, g := range c.growth {
		if g.Publication.Fresh.Paths > 0 {
			steps = append(steps, g)
		}
	}
	if len(steps) < 2 {
		return nil
	}
	first, last := steps[0], steps[len(steps)-1]
	chart := &growthChart{
		Wide: draw(steps, "wide", 940, 250, 6), Narrow: draw(steps, "narrow", 340, 220, 3),
		Summary: fmt.Sprintf("From %s on %s to %s on %s.", ui.Bytes(first.Total.FileSize), day(first.Publication.Time()),
			ui.Bytes(last.Total.FileSize), day(last.Publication.Time())),
	}
	const most = 100
	chart.More = max(len(steps)-most, 0)
	for i := len(steps) - 1; i >= chart.More; i-- {
		chart.Rows = append(chart.Rows, steps[i])
	}
	return chart
}

func draw(steps []growth, id string, width, height, dates int) drawing {
	d := drawing{ID: id, Width: width, Height: height, Left: 62, Right: width - 12, Top: 12, Bottom: height - 28}
	begin, end := unix(steps[0]), unix(steps[len(steps)-1])
	span := max(end-begin, 1)
	x := func(t float64) float64 { return float64(d.Left) + (t-begin)/span*float64(d.Right-d.Left) }
	top, step := axis(steps[len(steps)-1].Total.FileSize)
	y := func(v float64) float64 { return float64(d.Bottom) - v/top*float64(d.Bottom-d.Top) }
	for v := 0.0; v <= top*1.0001; v += step {
		d.Y = append(d.Y, tick{At: px(y(v)), Label: strings.Replace(ui.Bytes(int64(v+0.5)), ".0 ", " ", 1)})
	}
	layout := "2 Jan"
	switch {
	case span < 2*24*3600:
		layout = "15:04"
	case span > 300*24*3600:
		layout = "Jan 2006"
	}
	for i := range dates {
		at := begin + span*float64(i)/float64(dates-1)
		anchor := "middle"
		switch i {
		case 0:
			anchor = "start"
		case dates - 1:
			anchor = "end"
		}
		label := time.Unix(int64(at), 0).UTC().Format(layout)
		if i > 0 && d.X[len(d.X)-1].Label == label {
			continue
		}
		d.X = append(d.X, tick{At: px(x(at)), Label: label, Anchor: anchor})
	}
	var line strings.Builder
	fmt.Fprintf(&line, "M%s %s", px(x(begin)), px(y(float64(steps[0].Total.FileSize))))
	lastX := ""
	for _, s := range steps[1:] {
		// steps of one pixel column would be thousands of points that nobody sees
		at := strconv.FormatFloat(x(unix(s)), 'f', 0, 64)
		if at != lastX {
			fmt.Fprintf(&line, "H%s", px(x(unix(s))))
		}
		fmt.Fprintf(&line, "V%s", px(y(float64(s.Total.FileSize))))
		lastX = at
	}
	d.Line = line.String()
	d.Area = fmt.Sprintf("%sV%dH%dZ", d.Line, d.Bottom, d.Left)
	d.EndX, d.EndY = px(x(end)), px(y(float64(steps[len(steps)-1].Total.FileSize)))
	return d
}

func unix(g growth) float64 { return float64(g.Publication.Publication.Time.Unix()) }

func px(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// axis returns the end of an axis up to a size, and the distance of its lines.
func axis(size int64) (top, step float64) {
	v := max(float64(size), 4)
	scale := math.Pow(10, math.Floor(math.Log10(v/4)))
	for _, f := range []float64{1, 2, 2.5, 5, 10} {
		if step = f * scale; 4*step >= v {
			break
		}
	}
	return math.Ceil(v/step) * step, step
}

// described is a drawing with what it shows.
type described struct {
	drawing
	Summary string
}

// Drawing is for a template that shows one of the two.
func (c *growthChart) Drawing(d drawing) described { return described{d, c.Summary} }
