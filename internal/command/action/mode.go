package action

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/matrix"
)

// mode is what the action does in a job.
type mode string

const (
	modePublish  mode = "publish"
	modeCache    mode = "cache"
	modeReadOnly mode = "read-only"
	modeMatrix   mode = "matrix"
	modeBuild    mode = "build" // and publish nothing
	modeSkip     mode = "skip"
	modeGC       mode = "gc"
	modeSign     mode = "sign"
)

// Values of the input on-fork.
const (
	forkBuild = "build"
	forkRead  = "read"
	forkSkip  = "skip"
)

// foreign reports whether somebody else may have chosen what the job evaluates
// and builds, and the workflow does not say that it trusts them.
func (c *config) foreign() bool {
	return c.event.Foreign != "" && (!c.event.Privileged || !slices.Contains(c.trustEvents(), c.event.Name))
}

// choose returns the mode and the reason for it. Its error has the status
// ExitUsage.
func choose(c config, getenv func(string) string) (mode, string, error) {
	event := c.event
	foreign := c.foreign()
	fork, lacks := "", c.lacks(getenv)
	switch {
	case foreign && event.Privileged:
		fork = fmt.Sprintf("the event %s may be about the code of %s; see the input trust-event", event.Name, event.Foreign)
	case foreign:
		fork = "the pull request is from " + event.Foreign + ", so the job's token may not write"
	case lacks != nil && event.Dependabot:
		fork = fmt.Sprintf("%s, because Dependabot's jobs get no secrets of Actions", lacks)
	}
	switch {
	case fork != "" && c.text["on-fork"] == forkSkip:
		return modeSkip, fork, nil
	case fork == "" && lacks != nil && !c.dryRun && !c.plans():
		return "", "", cli.WithStatus(hint.Wrap(lacks, "is the name of the secret right? A job that is not to write sets the input dry-run"), cli.ExitUsage)
	case c.gc && (fork == "" || c.dryRun):
		return modeGC, "the input gc is set", nil
	case c.plans():
		return modeMatrix, "the input matrix is " + matrix.Planning, nil
	case fork != "" && c.builds() && !event.Privileged:
		return modeBuild, fork, nil
	case fork != "":
		return modeReadOnly, fork, nil
	case c.text["sign"] != "":
		return modeSign, "the input sign is set", nil
	case c.text["part"] != "":
		return modePublish, "the input part is set", nil
	case c.text["matrix"] == matrix.Recording:
		return modePublish, "the input matrix is " + matrix.Recording, nil
	case c.text["flake"] != "":
		return modePublish, "the input flake is set", nil
	}
	return modeCache, "without the input flake, what the job builds is published at its end", nil
}

// builds reports whether the step builds a flake for a fork. In an event with
// the repository's secrets it does not, whatever this says.
func (c *config) builds() bool {
	return c.text["on-fork"] == forkBuild && c.text["flake"] != "" && c.text["matrix"] == "" && c.text["sign"] == "" && !c.gc
}

// lacks says which part of the login for the cache is missing.
func (c *config) lacks(getenv func(string) string) error {
	if c.text["token"] != "" {
		return nil
	}
	if c.text["username"] != "" {
		return errors.New("there is a username, but no token")
	}
	if registry, own := c.job.Own(c.cache()); own && !loggedIn(getenv, registry) {
		return errors.New("there is no token for " + registry.Host)
	}
	return nil
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
