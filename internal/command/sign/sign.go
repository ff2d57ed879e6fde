// Package sign is the command that signs what another job has built and
// published without a key.
package sign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	"github.com/org/nixoci-action/report"
)

// Command is what the help says of it.
var Command = &cli.Command{
	Name:     "sign",
	Summary:  "signs what a job without the key has published",
	Synopsis: "[flags]",
	About: "Signs the store paths in the reports of publish --unsigned --json, and nothing else. An entry of the cache that says something else " +
		"than its report is not signed. It needs no Nix, no flake and no store.",
	Examples: `
		nixoci publish --flake . --unsigned --json > report.json
		nixoci sign --report report.json --sign-key-file ~/.config/nixoci/key.secret`,
	Environment: slices.Concat([]cli.Variable{cli.SigningKey}, cli.Tokens, cli.Login),
	Partly:      "what the cache has as reported is signed, the rest is named",
}

// maxReport bounds a report, in bytes. A hundred thousand paths take some 100 MB.
const maxReport = 1 << 30

type config struct {
	cache, keyText string
	reports, keys  []string
	json, verbose  bool
}

func parseConfig(args []string, getenv func(string) string) (config, error) {
	c := config{keyText: getenv("NIX_SIGNING_KEY")}
	f := Command.Flags(getenv)
	f.Cache(&c.cache)
	f.Strings(&c.reports, "report", nil, "`FILE` that publish --unsigned --json has printed")
	f.Strings(&c.keys, "sign-key-file", nil, "`FILE` with a secret key to sign with")
	f.Bool(&c.json, "json", "print the result as JSON on standard output")
	f.Bool(&c.verbose, "verbose", "log every request")
	rest, err := f.Parse(args)
	if err != nil {
		return c, err
	}
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	if len(c.reports) == 0 {
		errs = append(errs, errors.New("give the report of a job, with --report"))
	}
	if len(c.keys) == 0 && strings.TrimSpace(c.keyText) == "" {
		errs = append(errs, errors.New("there is no key to sign with: give --sign-key-file or NIX_SIGNING_KEY"))
	}
	return c, f.Usage(errors.Join(append(errs, registry.Check(c.cache))...))
}

// Run is the command. It returns the exit status.
func Run(ctx context.Context, args []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv)
	if err == nil {
		err = run(ctx, c, getenv, stdout, ui.New(stderr, getenv))
	}
	return cli.Report(ctx, err, getenv, stdout, stderr)
}

func run(ctx context.Context, c config, getenv func(string) string, stdout io.Writer, msg *ui.Messages) error {
	secrets := cli.Secrets(getenv)
	keys, err := cli.SigningKeys(c.keys, c.keyText, getenv, secrets, msg)
	var all []report.Fingerprint
	for _, name := range c.reports {
		if err == nil {
			var some []report.Fingerprint
			some, err = read(name)
			all = append(all, some...)
		}
	}
	if err != nil {
		return cli.WithStatus(err, cli.ExitUsage)
	}
	log := msg.Logger(cli.LogLevel(c.verbose))
	own, _ := ci.Detect(getenv).Own(c.cache)
	repo, err := cli.OpenRepository(c.cache, registry.Options{
		Push: true, Keychain: cli.Remember(cli.Keychain(getenv), secrets), Advice: own.Advice, Logger: log,
	})
	if err != nil {
		return cli.WithStatus(err, cli.ExitUsage)
	}
	r := &report.Sign{Cache: repo.String(), PublicKeys: keys.PublicKeys(), Signed: []string{}, Already: []string{}}
	err = r.Finish(sign(ctx, index.Open(repo, index.Options{Logger: log}), keys, all, r))
	if report.IsPartly(err) {
		err = cli.WithStatus(err, cli.ExitPartly)
	}
	msg.Printf("signed: %s; signed before: %s; not signed: %s", ui.Count(len(r.Signed), "path"), ui.Count(len(r.Already), "path"), ui.Count(len(r.Refused), "path"))
	if c.json {
		err = errors.Join(err, cli.WriteJSON(stdout, r))
	}
	return err
}

// read reads what a report says is to be signed.
func read(name string) ([]report.Fingerprint, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	defer f.Close()
	var r report.Publish
	if err := json.NewDecoder(io.LimitReader(f, maxReport)).Decode(&r); err != nil {
		return nil, hint.Wrap(fmt.Errorf("reading the report %s: %w", name, err), "a report is what publish --unsigned --json prints")
	}
	return r.Fingerprints, nil
}

// sign signs what reports say, where the cache has it so. Nothing else that the
// cache says is signed.
func sign(ctx context.Context, cache *index.Cache, keys signing.Keys, all []report.Fingerprint, r *report.Sign) error {
	base, err := cache.Sweep(ctx)
	if err != nil {
		return err
	}
	if base.Absent() {
		return cli.NoCache(r.Cache)
	}
	refuse := func(path, why string) { r.Refused = append(r.Refused, report.Failure{Path: path, Error: why}) }
	signed := map[string]format.Entry{} // by hash part
	reported := map[string]bool{}
	for i := range all {
		f := &all[i]
		want, err := f.Entry()
		if err != nil {
			refuse(f.Path, err.Error())
			continue
		}
		hashPart := want.Path.HashPart
		reported[hashPart] = true
		e, ok := base.Lookup(hashPart)
		same := want.Fingerprint()
		switch {
		case !ok:
			refuse(f.Path, "the cache does not have it")
			continue
		case e.Fingerprint() != same && keys.Signed(e.Fingerprint(), e.Signatures):
			r.Already = append(r.Already, f.Path) // another build of ours
			continue
		case e.Fingerprint() != same:
			refuse(f.Path, fmt.Sprintf("the cache has %s, the report says %s", e.Fingerprint(), same))
			continue
		}
		if again, ok := signed[hashPart]; ok {
			e = again
		}
		changed := !keys.Signed(same, e.Signatures)
		e.Signatures, err = keys.Sign(same, e.Signatures)
		for _, o := range f.Realisations {
			o.Signatures = nil
			if err == nil {
				o.Signatures, err = keys.Sign(o.Fingerprint(e.Path.Base()), nil)
			}
			changed = e.Realise(o) || changed
		}
		if err == nil {
			err = e.Validate()
		}
		switch {
		case err != nil:
			refuse(f.Path, err.Error())
		case changed:
			signed[hashPart] = e
		default:
			r.Already = append(r.Already, f.Path)
		}
	}
	return commit(ctx, cache, base, keys, signed, reported, r)
}

// commit writes the signed entries, and again what they refer to and is old.
func commit(ctx context.Context, cache *index.Cache, base *index.Snapshot, keys signing.Keys, signed map[string]format.Entry, reported map[string]bool, r *report.Sign) error {
	if len(signed) == 0 {
		return nil
	}
	w, err := cache.NewWriter(base, index.WriterOptions{
		// who published an entry has found there what the cache does not have
		OnUpstream: func(hashPart string) bool { _, ok := base.Lookup(hashPart); return !ok && !reported[hashPart] },
		Config:     format.Config{PublicKeys: keys.PublicKeys(), StoreDir: base.Config().StoreDir},
	})
	if err != nil {
		return err
	}
	var todo []format.Entry
	for _, e := range signed {
		todo = append(todo, e)
	}
	added := map[string]bool{}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if added[e.Path.HashPart] {
			continue
		}
		added[e.Path.HashPart] = true
		if err := w.Add(ctx, e); err != nil {
			return errors.Join(err, closeWriter(ctx, w, signed, r))
		}
		for _, ref := range e.References {
			hashPart, _, _ := strings.Cut(ref, "-")
			if _, ok := signed[hashPart]; ok {
				continue
			}
			if old, ok := base.Lookup(hashPart); ok && time.Since(old.Added) >= format.PinAfter {
				todo = append(todo, old)
			}
		}
	}
	return closeWriter(ctx, w, signed, r)
}

func closeWriter(ctx context.Context, w *index.Writer, signed map[string]format.Entry, r *report.Sign) error {
	result, err := w.Close(ctx, nil)
	failed := map[string]bool{}
	for _, e := range append(result.Incomplete, result.Lost...) {
		failed[e.Path.HashPart] = true
	}
	for hashPart, e := range signed {
		switch {
		case failed[hashPart] && err == nil:
			r.Refused = append(r.Refused, report.Failure{Path: e.Path.String(), Error: "the registry has lost it, or something it refers to"})
		case !failed[hashPart]:
			r.Signed = append(r.Signed, e.Path.String())
		}
	}
	slices.Sort(r.Signed)
	return err
}
