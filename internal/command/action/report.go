package action

import (
	"encoding/json"
	"fmt"
	"time"
)

// publishReport is what this program needs of publish's report.
type publishReport struct {
	Status     string
	Error      string
	Denied     bool
	DryRun     bool
	PublicKeys []string
	Outputs    []outputReport
	Matrix     json.RawMessage
	Closure    total
	OnUpstream total
	InCache    total
	Excluded   total
	New        total
	Uploaded   total
	Reused     total
	Unsigned   total
	OtherKeys  []string
	Pin        string
	Stored     *total
	History    []past
	Paths      []pathReport
	LeftOut    []pathReport
	Failures   []failedPath

	took time.Duration
}

type outputReport struct {
	Attr      string   `json:"attr"`
	System    string   `json:"system,omitempty"`
	Status    string   `json:"status"`
	Paths     []string `json:"paths"`
	Reason    string   `json:"reason,omitempty"`
	Message   string   `json:"message,omitempty"`
	Job       string   `json:"job,omitempty"`
	FailedDrv string   `json:"failedDrv,omitempty"`
	Log       string   `json:"log,omitempty"`
}

type total struct {
	Paths             int
	NarSize, FileSize int64
}

// past is what a publication takes in the cache.
type past struct {
	Time time.Time
	total
}

type pathReport struct {
	Path, Reason      string
	Keep              bool
	NarSize, FileSize int64
}

type failedPath struct{ Path, Error string }

// gcReport is what this program needs of gc's report.
type gcReport struct {
	Status, Error string
	Denied        bool
	DryRun        bool
	Kept, Removed total
	Reasons       []struct {
		Keep   bool
		Reason string
		total
	}
	Paths     []pathReport
	FreedSize int64
	Result    *struct {
		Kept, Removed total
		Deleted       int
		Waiting       int
		WaitingUntil  *time.Time
		Refused       []struct{ Reason, Remedy string }
	}
}

// counts are the outputs that are published, and the outputs and store paths
// that failed.
func (r *publishReport) counts() (published, failures int) {
	for _, o := range r.Outputs {
		switch o.Status {
		case "built", "cached":
			published++
		case "failed":
			failures++
		}
	}
	if r.Status == "failed" || r.DryRun {
		published = 0
	}
	return published, failures + len(r.Failures)
}

// outputsJSON is the output "outputs": without logs and messages, which may be
// long.
func (r *publishReport) outputsJSON() (string, error) {
	list := make([]outputReport, 0, len(r.Outputs))
	for _, o := range r.Outputs {
		paths := o.Paths
		if paths == nil {
			paths = []string{}
		}
		list = append(list, outputReport{Attr: o.Attr, System: o.System, Status: o.Status, Paths: paths})
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("writing the outputs: %w", err)
	}
	return string(text), nil
}
