package action

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-githubactions"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
)

// config is what the inputs ask for. What is for another command to understand
// stays text.
type config struct {
	text     map[string]string // all inputs by name, defaults filled in
	job      ci.Job
	event    ci.Event
	dryRun   bool
	gc       bool
	warn     bool
	summary  bool
	deadline time.Duration // 0: none
}

// parseConfig reads the inputs. Its error has the status ExitUsage.
func parseConfig(getenv func(string) string) (config, error) {
	c := config{text: map[string]string{}, job: ci.Detect(getenv)}
	action := githubactions.New(githubactions.WithGetenv(getenv))
	for _, f := range inputs {
		value := action.GetInput(f.name)
		if value == "" && !strings.Contains(f.fallback, "${{") { // the runner alone knows these
			value = f.fallback
		}
		c.text[f.name] = value
	}
	var errs []error
	boolean := func(name string) bool {
		b, err := strconv.ParseBool(c.text[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("input %s: %q is neither true nor false", name, c.text[name]))
		}
		return b
	}
	c.dryRun, c.gc, c.summary = boolean("dry-run"), boolean("gc"), boolean("summary")
	switch c.text["on-error"] {
	case "warn":
		c.warn = true
	case "fail":
	default:
		errs = append(errs, fmt.Errorf("input on-error: %q is neither fail nor warn", c.text["on-error"]))
	}
	if f := c.text["on-fork"]; !slices.Contains([]string{forkBuild, forkRead, forkSkip}, f) {
		errs = append(errs, fmt.Errorf("input on-fork: %q is none of build, read and skip", f))
	}
	errs = append(errs, c.checkMatrix())
	for _, name := range c.trustEvents() {
		if !ci.AnybodyCauses(name) {
			errs = append(errs, fmt.Errorf("input trust-event: %q is no event that anybody can cause and that gets secrets, such as pull_request_target", name))
		}
	}
	if _, err := signing.Keys(nil).Trusted(strings.Fields(c.text["trusted-keys"])); err != nil {
		errs = append(errs, fmt.Errorf("input trusted-keys: %w", err))
	}
	if s := c.text["deadline"]; s != "" {
		var err error
		if c.deadline, err = cli.ParseDuration(s); err == nil && c.deadline == 0 {
			err = errors.New("it is zero")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("input deadline: %w", err))
		}
	}
	if _, err := strconv.ParseUint(c.text["retention-days"], 10, 15); err != nil {
		errs = append(errs, fmt.Errorf("input retention-days: %q is no number of days", c.text["retention-days"]))
	}
	if c.text["cache"] == "" { // as for the commands, a variable comes before the default
		c.text["cache"] = getenv(cli.EnvName("cache"))
	}
	if c.text["cache"] == "" {
		cache, err := cli.DefaultCache(getenv)
		errs = append(errs, err)
		c.text["cache"] = cache
	}
	if c.text["cache"] != "" {
		errs = append(errs, registry.Check(c.text["cache"]))
	}
	if err := errors.Join(errs...); err != nil {
		return c, cli.WithStatus(err, cli.ExitUsage)
	}
	var err error
	c.event, err = ci.ReadEvent(getenv)
	return c, err
}

// trustEvents are the events for which the job publishes what anybody may have
// chosen.
func (c *config) trustEvents() []string { return strings.Fields(c.text["trust-event"]) }

func (c *config) cache() string { return c.text["cache"] }

// secrets are the inputs that nobody may see.
func (c *config) secrets() *secret.Set {
	s := &secret.Set{}
	s.AddKeys(c.text["signing-key"])
	s.Add("the token", c.text["token"])
	return s
}

// distrust takes back what may be allowed to the job's own flake only. Somebody
// else's would say from where a machine gets programs, which on a runner of one's
// own the next job finds in the store.
func (c *config) distrust() {
	c.text["accept-flake-config"] = "false"
	c.text["extra-nix-args"] += " --option accept-flake-config false" // also if nix.conf says otherwise
}

// environ is the environment for one of the other commands: that of the step
// without the inputs, and those inputs that are for the command.
func (c *config) environ(command string, env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		return strings.HasPrefix(kv, "INPUT_") || strings.HasPrefix(kv, cli.EnvName("flake")+"=") // the mode says whether there is one
	})
	for _, f := range inputs {
		value := c.text[f.name]
		if value == "" || !slices.Contains(strings.Fields(f.to), command) {
			continue
		}
		switch {
		case f.list:
			value += "\n" // so that an item may have spaces
		case f.name == "extra-nix-args":
			value = strings.Join(strings.Fields(value), "\n") + "\n"
		}
		env = append(env, f.variable+"="+value)
	}
	if c.event.Ref != "" { // GITHUB_REF names the branch that a pull request is for
		env = append(env, "GITHUB_REF="+c.event.Ref)
	}
	if slices.Contains(env, "RUNNER_DEBUG=1") { // "enable debug logging" was ticked
		env = append(env, cli.EnvName("verbose")+"=true")
	}
	if command == gcCommand {
		env = append(env, "NIXOCI_RETENTION="+c.text["retention-days"]+"d")
	}
	token, user := c.text["token"], c.text["username"]
	switch {
	case token == "":
	case user != "":
		env = append(env, cli.Login[0].Name+"="+user, cli.Login[1].Name+"="+token)
	default:
		if _, own := c.job.Own(c.cache()); own { // no other registry may see the job's token
			env = append(env, "GITHUB_TOKEN="+token)
		}
	}
	return env
}
