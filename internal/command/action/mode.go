package action

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/origin"
	"github.com/org/nixoci-action/matrix"
)

// mode is what the action does in a job.
type mode string

const (
	modePublish  mode = "publish"
	modeCache    mode = "cache"
	modeReadOnly mode = "read-only"
	modeMatrix   mode = "matrix"
	modeGC       mode = "gc"
)

// choose returns the mode and the reason for it.
func choose(c config, getenv func(string) string) (mode, string, error) {
	if c.gc {
		return modeGC, "the input gc is set", nil
	}
	if c.plans() {
		return modeMatrix, "the input matrix is " + matrix.Planning, nil
	}
	fork, err := forkOf(getenv)
	if err != nil {
		return "", "", err
	}
	registry, own := c.job.Own(c.cache())
	switch {
	case fork != "":
		return modeReadOnly, "the pull request is from " + fork + ", so the job's token may not write", nil
	case c.text["username"] != "" && c.text["token"] == "":
		return modeReadOnly, "there is a username, but no token", nil
	case own && c.text["token"] == "" && !loggedIn(getenv, registry):
		return modeReadOnly, "there is no token for " + registry.Host, nil
	case c.text["part"] != "":
		return modePublish, "the input part is set", nil
	case c.text["matrix"] == matrix.Recording:
		return modePublish, "the input matrix is " + matrix.Recording, nil
	case c.text["flake"] != "":
		return modePublish, "the input flake is set", nil
	}
	return modeCache, "without the input flake, what the job builds is published at its end", nil
}

// loggedIn reports whether the commands would find credentials for a registry.
func loggedIn(getenv func(string) string, r ci.Registry) bool {
	auth, err := cli.Keychain(getenv).Resolve(host(r.Host))
	return err == nil && auth != authn.Anonymous
}

// host is a registry of which only the name matters.
type host string

func (h host) String() string      { return string(h) }
func (h host) RegistryStr() string { return string(h) }

// maxEvent bounds what is read of an event, in bytes; GitHub's are at most 25 MB.
const maxEvent = 64 << 20

// forkOf names where a pull request comes from, if that is not this repository;
// "" otherwise. Then GitHub gives a token that only reads, whatever the workflow
// asks for, and so do Gitea and Forgejo. The exception is pull_request_target,
// which runs the workflow of the target.
func forkOf(getenv func(string) string) (string, error) {
	name := getenv("GITHUB_EVENT_NAME")
	// what calls a reusable workflow Gitea does not say
	called := name == "workflow_call" && isPull(getenv("GITHUB_REF"))
	if !called && (!strings.HasPrefix(name, "pull_request") || name == "pull_request_target") {
		return "", nil
	}
	text, err := readFile(getenv("GITHUB_EVENT_PATH"), maxEvent)
	if err != nil {
		return "", fmt.Errorf("reading the event of the pull request: %w", err)
	}
	type repository struct {
		FullName string `json:"full_name"`
	}
	var event struct {
		PullRequest *struct {
			Head struct {
				Ref  string      `json:"ref"`
				Repo *repository `json:"repo"`
			} `json:"head"`
		} `json:"pull_request"`
		Repository repository `json:"repository"`
	}
	if err := json.Unmarshal(text, &event); err != nil {
		return "", fmt.Errorf("reading the event of the pull request: %w", err)
	}
	here := event.Repository.FullName
	if here == "" {
		here = getenv("GITHUB_REPOSITORY")
	}
	switch {
	case event.PullRequest == nil:
		return "", nil
	case event.PullRequest.Head.Repo == nil:
		return "a deleted repository", nil
	case !strings.EqualFold(event.PullRequest.Head.Repo.FullName, here):
		return event.PullRequest.Head.Repo.FullName, nil
	case isPull(event.PullRequest.Head.Ref):
		return "a push without a branch (AGit)", nil
	}
	return "", nil
}

// isPull reports whether a reference is where Gitea and Forgejo keep what a pull
// request is made of. One that was pushed there, with AGit, seems to be from the
// repository itself.
func isPull(ref string) bool { return origin.ParseRef(ref).Kind == origin.PullRequest }

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return os.ReadFile(name)
}
