package ci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/internal/origin"
)

// Event is what has started a job of GitHub Actions, or of Gitea's or Forgejo's.
// The zero value is an event that nobody else has caused.
type Event struct {
	// Name is GITHUB_EVENT_NAME.
	Name string
	// Foreign says where the code may be from that the job is about, if the
	// repository's writers have not chosen it; "" if they have.
	Foreign string
	// Privileged says that the forge runs the job with the repository's secrets,
	// and a token that writes, all the same.
	Privileged bool
	// Dependabot says that GitHub's Dependabot has caused the event. Its jobs get
	// secrets of its own instead of those of Actions.
	Dependabot bool
	// Ref is the reference of the pull request that the job is about, where its
	// GITHUB_REF says another branch; "" if that says what the job is for.
	Ref string
}

// ofWriters are the events that only who may write to the repository can cause,
// and the clock. They run what the repository has. Anybody can cause the others,
// and such jobs often fetch what that person has made.
var ofWriters = []string{
	"", "push", "create", "delete", "schedule", "workflow_dispatch", "repository_dispatch", "merge_group", "release", "deployment",
	"deployment_status", "page_build", "public", "registry_package", "branch_protection_rule", "milestone", "label",
}

// AnybodyCauses reports whether people without any right in a repository can cause
// an event that runs with the repository's secrets.
func AnybodyCauses(event string) bool {
	switch event {
	case "pull_request", "pull_request_review", "pull_request_review_comment":
		return false // no secrets for forks
	}
	return !slices.Contains(ofWriters, event)
}

// maxEvent bounds what is read of an event, in bytes; GitHub's are at most 25 MB.
const maxEvent = 64 << 20

type eventRepository struct {
	FullName string `json:"full_name"`
}

// payload is what an event's file tells, as far as it matters here.
type payload struct {
	Repository  eventRepository `json:"repository"`
	PullRequest *struct {
		Number int `json:"number"`
		Head   struct {
			Ref  string           `json:"ref"`
			Repo *eventRepository `json:"repo"`
		} `json:"head"`
	} `json:"pull_request"`
	WorkflowRun *struct {
		Event          string           `json:"event"`
		HeadRepository *eventRepository `json:"head_repository"`
		PullRequests   []struct {
			Number int `json:"number"`
		} `json:"pull_requests"`
	} `json:"workflow_run"`
	Issue *struct {
		Number      int              `json:"number"`
		PullRequest *json.RawMessage `json:"pull_request"`
	} `json:"issue"`
}

// ReadEvent finds out what has started a job. Its error never means an event of
// the repository's own.
//
// In a pull request from a fork GitHub gives a token that only reads, whatever
// the workflow asks for, and so do Gitea and Forgejo. Other events run with all
// that the repository's own jobs have.
func ReadEvent(getenv func(string) string) (Event, error) {
	e := Event{Name: getenv("GITHUB_EVENT_NAME"), Dependabot: getenv("GITHUB_ACTOR") == "dependabot[bot]"}
	if slices.Contains(ofWriters, e.Name) {
		return e, nil
	}
	text, err := readEvent(getenv("GITHUB_EVENT_PATH"))
	if err == nil {
		err = e.parse(text, getenv("GITHUB_REF"), getenv("GITHUB_REPOSITORY"))
	}
	if err != nil {
		err = fmt.Errorf("reading the event %s: %w", e.Name, err)
	}
	return e, err
}

// parse reads the file of an event with a name that ran at ref in a repository.
func (e *Event) parse(text []byte, ref, repository string) error {
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	// what calls a reusable workflow Gitea does not say
	called := e.Name == "workflow_call"
	e.Privileged = AnybodyCauses(e.Name) && (!called || !isPull(ref))
	e.Foreign = p.foreign(cmp.Or(repository, p.Repository.FullName))
	if called && p.PullRequest == nil && p.WorkflowRun == nil && p.Issue == nil {
		e.Foreign = "" // as a push calls it
	}
	if !isPull(ref) && (e.Foreign != "" || p.PullRequest != nil || p.WorkflowRun != nil && p.WorkflowRun.Event == "pull_request") {
		e.Ref = "refs/pull/" + strconv.Itoa(p.number()) + "/merge"
	}
	return nil
}

// foreign says where the code may be from, "" if that is the repository here.
func (p *payload) foreign(here string) string {
	other := func(r *eventRepository) string {
		switch {
		case r == nil:
			return "a deleted repository"
		case !strings.EqualFold(r.FullName, here):
			return cmp.Or(r.FullName, "a repository without a name")
		}
		return ""
	}
	switch {
	case p.PullRequest != nil:
		if from := other(p.PullRequest.Head.Repo); from != "" {
			return from
		}
		if isPull(p.PullRequest.Head.Ref) {
			return "a push without a branch (AGit)"
		}
		return ""
	case p.WorkflowRun != nil:
		if from := other(p.WorkflowRun.HeadRepository); from != "" {
			return from
		}
		if run := p.WorkflowRun.Event; run != "pull_request" && !slices.Contains(ofWriters, cmp.Or(run, "unknown")) {
			return "whoever caused the event " + cmp.Or(run, "unknown")
		}
		return ""
	}
	return "whoever caused the event"
}

// number is the pull request's, 0 if that is not known: GitHub does not say which
// one of a fork has started a run.
func (p *payload) number() int {
	switch {
	case p.PullRequest != nil:
		return p.PullRequest.Number
	case p.WorkflowRun != nil && len(p.WorkflowRun.PullRequests) > 0:
		return p.WorkflowRun.PullRequests[0].Number
	case p.Issue != nil && p.Issue.PullRequest != nil:
		return p.Issue.Number
	}
	return 0
}

// isPull reports whether a reference is where Gitea and Forgejo keep what a pull
// request is made of. One that was pushed there, with AGit, seems to be from the
// repository itself.
func isPull(ref string) bool { return origin.ParseRef(ref).Kind == origin.PullRequest }

func readEvent(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxEvent {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxEvent)
	}
	return os.ReadFile(name)
}
