package nix

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Setting is one of Nix's, as the command line option --option sets it.
type Setting struct{ Name, Value string }

// maxFlakeFile bounds a flake.nix whose nixConfig is read, in bytes. It goes on a
// command line.
const maxFlakeFile = 96 << 10

// FlakeSettings returns what a flake asks for in its nixConfig, sorted by name,
// but for what Nix takes from every flake: that concerns prompts and the like.
// dir is the folder with flake.nix, if it is known. It is evaluated purely, and
// builds nothing.
func (c *Client) FlakeSettings(ctx context.Context, f Flake, dir string) ([]Setting, error) {
	fail := func(err error) ([]Setting, error) {
		return nil, fmt.Errorf("reading the nixConfig of a flake: %w", err)
	}
	if dir == "" {
		dir = filepath.Join(f.StorePath, f.Dir)
	}
	flake, in := "", dir
	text, err := readUpTo(filepath.Join(dir, "flake.nix"), maxFlakeFile)
	switch {
	case err != nil: // from 2.35 on, the source need not be in the store
		in = ""
		args, err := json.Marshal(map[string]any{"locked": f.Locked, "dir": f.Dir})
		if err != nil {
			return fail(err)
		}
		flake = fmt.Sprintf(`let args = builtins.fromJSON %s; in import (builtins.fetchTree (removeAttrs args.locked [ "dir" "__final" ]) + "/${args.dir}/flake.nix")`, Quote(string(args)))
	case len(text) > maxFlakeFile:
		return fail(fmt.Errorf("flake.nix is over %d bytes", maxFlakeFile))
	case !bytes.Contains(text, []byte("nixConfig")):
		return nil, nil
	default:
		flake = string(text)
	}
	raw, err := c.json(ctx, command{program: "nix", dir: in, quiet: true, args: []string{
		"eval", "--json", "--read-only", "--option", "allow-import-from-derivation", "false", "--expr", "(" + flake + "\n).nixConfig or { }",
	}})
	if err != nil {
		return fail(err)
	}
	settings, err := parseSettings(raw)
	if err != nil {
		return fail(err)
	}
	return settings, nil
}

// readUpTo reads a regular file, and one byte more than limit at most.
func readUpTo(file string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fmt.Errorf("%s is no regular file", file))
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}

// harmless are the settings that Nix takes from every flake.
var harmless = []string{"bash-prompt", "bash-prompt-prefix", "bash-prompt-suffix", "flake-registry", "commit-lock-file-summary", "commit-lockfile-summary"}

// parseSettings reads a nixConfig. Values become text as in Nix.
func parseSettings(raw []byte) ([]Setting, error) {
	var values map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&values); err != nil {
		return nil, fmt.Errorf("decoding the nixConfig: %w", err)
	}
	var settings []Setting
	for name, value := range values {
		text, err := settingText(value)
		if err == nil && (name == "" || strings.ContainsAny(name, "\x00\n=") || strings.ContainsRune(text, 0)) {
			err = errors.New("it is no setting")
		}
		if err != nil {
			return nil, fmt.Errorf("decoding the nixConfig: %q: %w", name, err)
		}
		if !slices.Contains(harmless, name) {
			settings = append(settings, Setting{name, text})
		}
	}
	slices.SortFunc(settings, func(a, b Setting) int { return strings.Compare(a.Name, b.Name) })
	return settings, nil
}

func settingText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, json.Number:
		return fmt.Sprint(v), nil
	case []any:
		words := make([]string, len(v))
		for i, w := range v {
			s, ok := w.(string)
			if !ok {
				return "", errors.New("its list has other things than strings")
			}
			words[i] = s
		}
		return strings.Join(words, " "), nil
	}
	return "", errors.New("it is no string, number, boolean or list of strings")
}

// Accept returns which settings of a flake Nix accepts without asking, as its
// configuration says, or as the user has once said for ever; and the others.
func (c *Client) Accept(ctx context.Context, settings []Setting) (accepted, refused []Setting, err error) {
	if len(settings) == 0 {
		return nil, nil, nil
	}
	config, err := c.config(ctx)
	if err != nil {
		return nil, nil, err
	}
	if config["accept-flake-config"].Value == true {
		return settings, nil, nil
	}
	trusted := c.trustedSettings()
	for _, s := range settings {
		if trusted[s.Name][s.Value] {
			accepted = append(accepted, s)
		} else {
			refused = append(refused, s)
		}
	}
	return accepted, refused, nil
}

// config returns the settings in force, by name.
func (c *Client) config(ctx context.Context) (map[string]struct{ Value any }, error) {
	v, err := c.Version(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{"show-config", "--json"}
	if v.HasRootInstallable() { // renamed meanwhile, and the old name warns
		args = []string{"config", "show", "--json"}
	}
	raw, err := c.json(ctx, command{program: "nix", args: args, quiet: true})
	if err != nil {
		return nil, fmt.Errorf("reading Nix's configuration: %w", err)
	}
	var config map[string]struct{ Value any }
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("decoding Nix's configuration: %w", err)
	}
	return config, nil
}

// MaxJobs returns how many builds one of Nix's processes runs at once on this
// machine: the setting max-jobs. With 0, all are done elsewhere.
func (c *Client) MaxJobs(ctx context.Context) (int, error) {
	config, err := c.config(ctx)
	if err != nil {
		return 0, err
	}
	n, ok := config["max-jobs"].Value.(float64)
	if !ok {
		return 0, fmt.Errorf("reading Nix's configuration: max-jobs is %v", config["max-jobs"].Value)
	}
	return int(n), nil
}

// trustedSettings are the values of settings that the user has accepted for ever,
// when Nix asked.
func (c *Client) trustedSettings() (trusted map[string]map[string]bool) {
	data := envValue(c.env, "XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(envValue(c.env, "HOME"), ".local", "share")
	}
	raw, err := os.ReadFile(filepath.Join(data, "nix", "trusted-settings.json"))
	if err != nil || json.Unmarshal(raw, &trusted) != nil {
		return nil // Nix then asks as well
	}
	return trusted
}

// With returns a Client whose commands have settings in addition.
func (c *Client) With(settings []Setting) *Client {
	if len(settings) == 0 {
		return c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	more := &Client{binDir: c.binDir, env: c.env, args: slices.Clone(c.args), stderr: c.stderr, log: c.log, stopDelay: c.stopDelay, version: c.version}
	for _, s := range settings {
		more.args = append(more.args, "--option", s.Name, s.Value)
	}
	return more
}
