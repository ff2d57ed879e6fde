package action

import (
	"fmt"
	"os"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
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
	modeSign     mode = "sign"
)

// choose returns the mode and the reason for it.
func choose(c config, getenv func(string) string) (mode, string) {
	event := c.event
	foreign := event.Foreign != "" && (!event.Privileged || !slices.Contains(c.trustEvents(), event.Name))
	if c.gc && (!foreign || c.dryRun) {
		return modeGC, "the input gc is set"
	}
	if c.plans() {
		return modeMatrix, "the input matrix is " + matrix.Planning
	}
	registry, own := c.job.Own(c.cache())
	switch {
	case foreign && event.Privileged:
		return modeReadOnly, fmt.Sprintf("the event %s may be about the code of %s; see the input trust-event", event.Name, event.Foreign)
	case foreign:
		return modeReadOnly, "the pull request is from " + event.Foreign + ", so the job's token may not write"
	case c.text["username"] != "" && c.text["token"] == "":
		return modeReadOnly, "there is a username, but no token"
	case own && c.text["token"] == "" && !loggedIn(getenv, registry):
		return modeReadOnly, "there is no token for " + registry.Host
	case c.text["sign"] != "":
		return modeSign, "the input sign is set"
	case c.text["part"] != "":
		return modePublish, "the input part is set"
	case c.text["matrix"] == matrix.Recording:
		return modePublish, "the input matrix is " + matrix.Recording
	case c.text["flake"] != "":
		return modePublish, "the input flake is set"
	}
	return modeCache, "without the input flake, what the job builds is published at its end"
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
