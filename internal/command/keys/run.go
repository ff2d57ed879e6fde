package keys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/ui"
)

// result is what --json prints. Keys are "name:base64".
type result struct {
	Cache      string               `json:"cache"`
	DryRun     bool                 `json:"dryRun"`
	Trusted    []string             `json:"trusted"`
	Retired    []string             `json:"retired"`
	Unvouched  []string             `json:"unvouched"`
	Statements format.KeyStatements `json:"statements"` // those that count
	Changes    format.KeyStatements `json:"changes"`    // by this run
}

// run does what cfg asks for.
func run(ctx context.Context, cfg config, getenv func(string) string, stdout, stderr io.Writer) error {
	msg := ui.New(stderr, getenv)
	log := msg.Logger(cli.LogLevel(cfg.verbose))
	secrets := cli.Secrets(getenv)
	var own signing.Keys
	if cfg.verb != list {
		var err error
		if own, err = cli.SigningKeys(cfg.keyFiles, cfg.keyText, getenv, secrets, msg); err != nil {
			return cli.WithStatus(err, cli.ExitUsage)
		}
	}
	access, _ := ci.Detect(getenv).Own(cfg.cache)
	repo, err := cli.OpenRepository(cfg.cache, registry.Options{
		Push: cfg.verb != list && !cfg.dryRun, Keychain: cli.Remember(cli.Keychain(getenv), secrets), Advice: access.Advice, Logger: log,
	})
	if err != nil {
		return err
	}
	cache := index.Open(repo, index.Options{Dir: cfg.cacheDir, TrustedKeys: cfg.trusted, Logger: log})
	base, err := cache.Sweep(ctx)
	if errors.As(err, new(*format.TooNewError)) {
		return hint.Wrap(err, "use a newer version of nixoci-action")
	} else if err != nil {
		return err
	}
	if base.Absent() {
		return cli.NoCache(repo.String())
	}
	chain, changes := base.Keys(), format.KeyStatements{}
	if cfg.verb != list {
		t := teller{config: cfg, own: own, base: base, chain: chain}
		conf, err := t.change()
		if err != nil {
			return err
		}
		changes = conf.KeyStatements
		if chain, err = apply(ctx, cache, base, conf, cfg.dryRun, msg); err != nil {
			return err
		}
	}
	r := result{
		Cache: repo.String(), DryRun: cfg.dryRun, Trusted: append([]string{}, chain.Trusted...), Retired: append([]string{}, chain.Retired...),
		Unvouched: append([]string{}, chain.Unvouched...), Statements: append(format.KeyStatements{}, chain.Counted...), Changes: changes,
	}
	if cfg.json {
		return cli.WriteJSON(stdout, r)
	}
	if chain.Keyless() {
		msg.Printf("the cache %s has no key", r.Cache)
	}
	if _, err := io.WriteString(stdout, ui.Text(r.text())); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

func (r *result) text() string {
	var rows [][]string
	for _, part := range []struct {
		state string
		keys  []string
	}{{"trusted", r.Trusted}, {"retired", r.Retired}, {"not vouched for", r.Unvouched}} {
		for _, k := range part.keys {
			rows = append(rows, []string{part.state, ui.Line(k)})
		}
	}
	if rows == nil {
		return ""
	}
	return ui.Table([]string{"state", "key"}, rows)
}

// apply writes a change, unless it is a dry run, and returns the keys after it.
func apply(ctx context.Context, cache *index.Cache, base *index.Snapshot, conf format.Config, dryRun bool, msg *ui.Messages) (format.KeyChain, error) {
	before, after := base.Keys(), base.KeysAfter(conf)
	if len(conf.KeyStatements) == 0 {
		msg.Printf("nothing is left to change")
		return before, nil
	}
	for _, s := range conf.KeyStatements {
		if s.Add != "" && !slices.Contains(after.Trusted, s.Add) {
			return after, hint.Wrap(fmt.Errorf("the key %s is retired, and never comes back", s.Add), "make a new one with `nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE`")
		}
	}
	if len(after.Trusted) == 0 {
		return after, hint.Wrap(errors.New("no key of the cache would be left that is trusted"), "`nixoci keys add` another one before, or name one to --keep")
	}
	if len(after.Counted) < len(before.Counted)+len(conf.KeyStatements) {
		return after, fmt.Errorf("the cache has %d statements about keys, which is all that readers take", len(base.Config().KeyStatements))
	}
	for _, k := range before.Trusted {
		asked := slices.ContainsFunc(conf.KeyStatements, func(s format.KeyStatement) bool { return s.Retire == k })
		if !asked && !slices.Contains(after.Trusted, k) {
			msg.Warn(hint.Wrap(fmt.Errorf("%s goes as well: only what is retired has added it", k), "--keep keeps it"))
		}
	}
	// who reads the cache for the first time begins with the keys that say something
	next := base.Config().Merge(conf)
	fresh := format.FollowKeys(next.FirstKeys(), nil, next.KeyStatements).Trusted
	for _, k := range after.Trusted {
		if !slices.Contains(fresh, k) {
			msg.Warn(hint.Wrap(fmt.Errorf("no key has added %s: who reads the cache for the first time from now on does not trust it", k), "`nixoci keys add` adds it"))
		}
	}
	if dryRun {
		return after, nil
	}
	w, err := cache.NewWriter(base, index.WriterOptions{Config: conf})
	if errors.Is(err, format.ErrForeign) {
		return after, hint.Wrap(err, "publish into it once: that takes it over")
	} else if err != nil {
		return after, err
	}
	if err := w.RecordConfig(ctx); err != nil {
		return after, err
	}
	if _, err := w.Close(ctx, nil); err != nil {
		return after, err
	}
	// another change may have been made at the same moment
	now, err := cache.Sweep(ctx)
	if err != nil {
		return after, err
	}
	if !slices.Equal(now.Keys().Trusted, after.Trusted) {
		msg.Warn(hint.Wrap(errors.New("somebody else has changed the keys of the cache at the same time"), "look whether this is what you want, and add a key if it is not"))
	}
	return now.Keys(), nil
}

// teller makes the statements of one change.
type teller struct {
	config
	own   signing.Keys
	base  *index.Snapshot
	chain format.KeyChain
}

// change is what to add to the cache's configuration.
func (t *teller) change() (conf format.Config, err error) {
	conf.StoreDir = t.base.Config().StoreDir
	now := time.Now().UTC().Truncate(time.Second)
	trusted, others := t.inHand()
	switch {
	case len(t.own) == 0:
		return conf, cli.WithStatus(hint.Wrap(errors.New("no secret key in hand: a change has to be signed by a key of the cache"), "name its file with --sign-key-file"), cli.ExitUsage)
	case t.chain.Keyless():
		return conf, hint.Wrap(errors.New("the cache has no key yet"), "publish with --sign-key-file: the first key needs nobody who adds it")
	case len(trusted) == 0:
		return conf, hint.Wrap(fmt.Errorf("none of the keys in hand (%s) is a trusted key of the cache (%s)", names(others.PublicKeys()), names(t.chain.Trusted)),
			"sign with a key that `nixoci keys list` shows as trusted")
	}
	say := func(by signing.Keys, s format.KeyStatement) error {
		s.Time, s.By = now, by[0].ToPublicKey().String()
		sigs, err := by[:1].Sign(s.Fingerprint(), nil)
		if err != nil {
			return err
		}
		s.Signature = sigs[0]
		before := len(conf.KeyStatements)
		if conf.KeyStatements = conf.KeyStatements.Merge(format.KeyStatements{s}); len(conf.KeyStatements) == before {
			return fmt.Errorf("the name of the key %s has characters that no statement can have, or is too long", s.Add+s.Retire)
		}
		if s.Add != "" {
			conf.PublicKeys = append(conf.PublicKeys, s.Add) // for readers that know no statements
		}
		return nil
	}
	switch t.verb {
	case add:
		for _, k := range t.args {
			if !slices.ContainsFunc(t.chain.Counted, func(s format.KeyStatement) bool { return s.Add == k }) || !slices.Contains(t.chain.Trusted, k) {
				err = errors.Join(err, say(trusted, format.KeyStatement{Add: k}))
			}
		}
	case rotate:
		if len(trusted) != 1 || len(others) != 1 {
			return conf, cli.WithStatus(hint.Wrap(fmt.Errorf("rotate needs two secret keys: one that the cache has (there are %d in hand: %s) and a new one (%d: %s)",
				len(trusted), names(trusted.PublicKeys()), len(others), names(others.PublicKeys())),
				"give --sign-key-file twice; a key that is added already takes over by `nixoci keys retire`"), cli.ExitUsage)
		}
		from, to := trusted.PublicKeys()[0], others.PublicKeys()[0]
		stay := slices.DeleteFunc(slices.Clone(t.chain.Trusted), func(k string) bool { return k == from })
		err = errors.Join(say(trusted, format.KeyStatement{Add: to}), say(others, format.KeyStatement{Retire: from, Keeps: append(slices.Clone(stay), to)}))
		for _, k := range stay { // who is given the new key alone trusts them as well
			err = errors.Join(err, say(others, format.KeyStatement{Add: k}))
		}
	case retire:
		for _, arg := range t.args {
			k, findErr := t.find(arg)
			if findErr != nil {
				return conf, findErr
			}
			if !slices.ContainsFunc(t.chain.Counted, func(s format.KeyStatement) bool { return s.Retire == k }) {
				by := trusted
				if len(by) > 1 && by[0].ToPublicKey().String() == k {
					by = by[1:] // what a retired key says of itself, who comes later does not hear
				}
				err = errors.Join(err, say(by, format.KeyStatement{Retire: k, Keeps: t.keep}))
			}
		}
	}
	return conf, err
}

// inHand divides the secret keys into those of trusted keys of the cache, and others.
func (t *teller) inHand() (trusted, others signing.Keys) {
	for _, k := range t.own {
		if slices.Contains(t.chain.Trusted, k.ToPublicKey().String()) {
			trusted = append(trusted, k)
		} else {
			others = append(others, k)
		}
	}
	return trusted, others
}

// find returns the key of the cache that is meant, by itself or by its name.
func (t *teller) find(arg string) (string, error) {
	var found []string
	for _, k := range slices.Concat(t.chain.Trusted, t.chain.Retired, t.chain.Unvouched) {
		if name, _, _ := strings.Cut(k, ":"); k == arg || name == arg {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return "", hint.Wrap(errors.New("the cache has no such key to retire"), "`nixoci keys list` shows them; a key is meant by its name, or by NAME:BASE64")
	case 1:
		return found[0], nil
	}
	return "", hint.Wrap(fmt.Errorf("%d keys have this name", len(found)), "say which, as NAME:BASE64")
}

// names are those of keys, for people.
func names(keys []string) string {
	if len(keys) == 0 {
		return "none"
	}
	var out []string
	for _, k := range keys {
		name, _, _ := strings.Cut(k, ":")
		out = append(out, name)
	}
	return ui.Few(out)
}
