package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/org/nixoci-action/discover"
)

// Job is one job of a matrix. Its texts are lists, one item a line, so that a
// workflow can give them to an input as they are.
type Job struct {
	Name   string `json:"name"`
	System string `json:"system"`
	Runner string `json:"runner"`
	// Outputs are patterns for discover.Options.Include, each of which matches
	// one output.
	Outputs string `json:"outputs"`
	// Systems are those of the whole: an attribute of one system may be for
	// another.
	Systems string `json:"systems"`
	// Series is the line of publications that the jobs and the whole belong to.
	Series string `json:"series"`

	members []*discover.Output
}

// Members are the outputs that Plan has given to the job, in the order of their
// attributes; nil for a job that was read.
func (j *Job) Members() []*discover.Output { return j.members }

// ParseJob reads a job as GitHub's toJSON(matrix) writes it. Other fields are
// those of a workflow that has more dimensions.
func ParseJob(text string) (*Job, error) {
	var j Job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return nil, fmt.Errorf("no job of a matrix: %w", err)
	}
	if len(Lines(j.Outputs)) == 0 || len(Lines(j.Systems)) == 0 || j.Series == "" {
		return nil, errors.New("no job of a matrix that was planned: it needs outputs, systems and a series")
	}
	return &j, nil
}

// Lines are the items of one of a job's lists.
func Lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}
