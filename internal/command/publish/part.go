package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// job is one job of a matrix. Its texts are lists, one item a line, so that a
// workflow can give them to an input as they are.
type job struct {
	Name   string `json:"name"`
	System string `json:"system"`
	Runner string `json:"runner"`
	// Outputs are patterns for --include, each of which matches one output.
	Outputs string `json:"outputs"`
	// Systems are for --system: an attribute of one system may be for another.
	Systems string `json:"systems"`
	// Series is the line of publications that the jobs and the whole belong to.
	Series string `json:"series"`
}

// parsePart reads a job as GitHub's toJSON(matrix) writes it. Other fields are
// those of a workflow that has more dimensions.
func parsePart(text string) (*job, error) {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return nil, fmt.Errorf("--part is no job of a matrix: %w", err)
	}
	if len(lines(j.Outputs)) == 0 || len(lines(j.Systems)) == 0 || j.Series == "" {
		return nil, errors.New("--part is no job of a matrix that --matrix plan has made: it needs outputs, systems and a series")
	}
	return &j, nil
}

func lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}

// series is what a whole matrix has in common: what its plan and its record
// choose of the flake. These are different jobs of a workflow, so a job's name is
// not in it; nor are the systems, so that a list of systems that changes leaves
// no series behind.
func series(c config, getenv func(string) string) string {
	return "matrix&" + selection(c, nil, func(name string) string {
		if name == "GITHUB_JOB" || name == "CI_JOB_NAME" {
			return ""
		}
		return getenv(name)
	})
}
