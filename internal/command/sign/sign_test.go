package sign

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/report"
)

func newKeys(t *testing.T, name string) signing.Keys {
	t.Helper()
	k, _, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signing.Keys{k}
}

func fingerprints(entries ...format.Entry) []report.Fingerprint {
	var all []report.Fingerprint
	for i := range entries {
		all = append(all, report.NewFingerprint(&entries[i]))
	}
	return all
}

func signAll(t *testing.T, repo registry.Repository, keys signing.Keys, all []report.Fingerprint) (*report.Sign, error) {
	t.Helper()
	r := &report.Sign{}
	return r, r.Finish(sign(t.Context(), index.Open(repo, indextest.Quick()), keys, all, r))
}

func signed(t *testing.T, repo registry.Repository, keys signing.Keys, e format.Entry) bool {
	t.Helper()
	got, ok := indextest.Sweep(t, repo).Lookup(e.Path.HashPart)
	return ok && keys.Signed(got.Fingerprint(), got.Signatures)
}

// What is reported is signed, once, and nothing that only the cache says.
func TestSign(t *testing.T) {
	t.Parallel()
	repo, keys := indextest.NewMemory(), newKeys(t, "cache-1")
	lib := indextest.NewEntry(t, repo, "lib")
	app := indextest.NewEntry(t, repo, "app", lib.Path.Base())
	other := indextest.NewEntry(t, repo, "other")
	theirs, ours := indextest.ModelRealisation("theirs"), indextest.ModelRealisation("ours")
	theirs.Signatures, ours.Signatures = nil, nil
	app.Realise(theirs)
	indextest.MustPublish(t, repo, lib, app, other)
	all := fingerprints(lib, app)
	all[1].Realisations = []format.Realisation{ours}
	all = append(all, all[0]) // two jobs have built it

	r, err := signAll(t, repo, keys, all)
	if err != nil || len(r.Signed) != 2 || r.Status != report.Done {
		t.Fatalf("got %+v, %v", r, err)
	}
	if !signed(t, repo, keys, lib) || !signed(t, repo, keys, app) || signed(t, repo, keys, other) {
		t.Error("not what was reported is signed")
	}
	s := indextest.Sweep(t, repo)
	got, _ := s.Lookup(app.Path.HashPart)
	if len(got.Realisations) != 2 {
		t.Fatalf("got %+v", got.Realisations)
	}
	for _, r := range got.Realisations {
		if mine := r.Key() == ours.Key(); keys.Signed(r.Fingerprint(app.Path.Base()), r.Signatures) != mine {
			t.Errorf("%s: signed by us: %v", r.Key(), !mine)
		}
	}
	if !slices.Equal(s.Config().PublicKeys, keys.PublicKeys()) {
		t.Errorf("the cache names the keys %v", s.Config().PublicKeys)
	}
	before := indextest.Tags(t, repo)
	if r, err := signAll(t, repo, keys, all); err != nil || len(r.Signed) != 0 || len(r.Already) != 3 || !slices.Equal(before, indextest.Tags(t, repo)) {
		t.Errorf("again: got %+v, %v; want nothing to do", r, err)
	}
	// a new key signs beside the old one
	next := newKeys(t, "cache-2")
	if r, err := signAll(t, repo, next, all); err != nil || len(r.Signed) != 2 || !signed(t, repo, next, app) || !signed(t, repo, keys, app) {
		t.Errorf("another key: got %+v, %v", r, err)
	}
}

// Who changes the registry after the build gets no signature, and costs the
// others nothing.
func TestSignRefuses(t *testing.T) {
	t.Parallel()
	nar := func(e, with *format.Entry) { e.NarHash, e.NarSize = with.NarHash, with.NarSize }
	for name, lie := range map[string]func(e, other *format.Entry){
		"references":      func(e, _ *format.Entry) { e.References = nil },
		"more references": func(e, other *format.Entry) { e.References = append(slices.Clone(e.References), other.Path.Base()) },
		"size":            func(e, _ *format.Entry) { e.NarSize++ },
		"contents":        nar,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo, keys, attacker := indextest.NewMemory(), newKeys(t, "cache-1"), newKeys(t, "cache-1")
			lib, good, other := indextest.NewEntry(t, repo, "lib"), indextest.NewEntry(t, repo, "good"), indextest.NewEntry(t, repo, "other")
			app := indextest.NewEntry(t, repo, "app", lib.Path.Base())
			above := indextest.NewEntry(t, repo, "above", app.Path.Base())
			indextest.MustPublish(t, repo, lib, good, other, app, above)
			all := fingerprints(lib, good, app, above)
			evil := app
			lie(&evil, &other)
			var err error
			if evil.Signatures, err = attacker.Sign(evil.Fingerprint(), nil); err != nil {
				t.Fatal(err)
			}
			indextest.MustPublish(t, repo, evil)
			r, err := signAll(t, repo, keys, all)
			if !report.IsPartly(err) || !strings.Contains(err.Error(), app.Path.String()) || len(r.Refused) != 1 || r.Refused[0].Path != app.Path.String() || len(r.Signed) != 3 {
				t.Errorf("got %+v, %v", r, err)
			}
			if signed(t, repo, keys, app) || !signed(t, repo, keys, good) {
				t.Error("the lie is signed, or what is so is not")
			}
			// a build of ours is no lie
			if evil.Signatures, err = keys.Sign(evil.Fingerprint(), nil); err != nil {
				t.Fatal(err)
			}
			indextest.MustPublish(t, repo, evil)
			if r, err := signAll(t, repo, keys, all); err != nil || len(r.Already) != 4 {
				t.Errorf("signed by us: got %+v, %v", r, err)
			}
		})
	}
}

// What the cache does not have, or is no path, is named.
func TestSignMissing(t *testing.T) {
	t.Parallel()
	repo, keys := indextest.NewMemory(), newKeys(t, "cache-1")
	here, gone := indextest.NewEntry(t, repo, "here"), indextest.NewEntry(t, repo, "gone")
	// of this the cache has lost what it refers to
	broken := indextest.NewEntry(t, repo, "broken", gone.Path.Base())
	if _, err := indextest.Publish(t, repo, index.WriterOptions{OnUpstream: func(string) bool { return true }}, here, broken); err != nil {
		t.Fatal(err)
	}
	all := append(fingerprints(here, gone, broken), report.Fingerprint{Path: "/etc/passwd"})
	r, err := signAll(t, repo, keys, all)
	if !report.IsPartly(err) || len(r.Signed) != 1 || len(r.Refused) != 3 || signed(t, repo, keys, broken) {
		t.Errorf("got %+v, %v", r, err)
	}
	// nothing at all
	if r, err := signAll(t, repo, keys, fingerprints(gone)); err == nil || report.IsPartly(err) || r.Status != report.Failed {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A job that is killed at any step loses nothing, and the next one signs the rest.
func TestSignKilled(t *testing.T) {
	t.Parallel()
	for steps := 0; ; steps++ {
		if steps > 100 {
			t.Fatal("it takes more than 100 steps")
		}
		repo, keys := indextest.NewMemory(), newKeys(t, "cache-1")
		lib := indextest.NewEntry(t, repo, "lib")
		app := indextest.NewEntry(t, repo, "app", lib.Path.Base())
		// long ago: a collection that knows nothing of this may remove it
		indextest.PublishAt(t, repo, 20, "refs/heads/main", lib)
		if _, err := indextest.Publish(t, repo, index.WriterOptions{OnUpstream: func(string) bool { return true }}, app); err != nil {
			t.Fatal(err)
		}
		all := fingerprints(app)
		_, err := signAll(t, &indextest.Crashing{Repository: repo, Left: steps}, keys, all)
		if s := indextest.Sweep(t, repo); s.Len() != 2 {
			t.Fatalf("after %d steps the cache has %d paths", steps, s.Len())
		}
		if r, again := signAll(t, repo, keys, all); again != nil || len(r.Signed)+len(r.Already) != 1 || !signed(t, repo, keys, app) {
			t.Fatalf("after %d steps: %+v, %v", steps, r, again)
		}
		if e, _ := indextest.Sweep(t, repo).Lookup(lib.Path.HashPart); time.Since(e.Added) > format.PinAfter {
			t.Fatalf("after %d steps: what a signed path refers to is not repeated", steps)
		}
		if err == nil {
			return
		}
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	env := func(name string) string { return map[string]string{"NIXOCI_CACHE": "localhost:1/x"}[name] }
	for want, args := range map[string][]string{
		"there is no key":     {"--report", "x"},
		"give the report":     {"--sign-key-file", "x"},
		"unexpected argument": {"--report", "x", "--sign-key-file", "x", "y"},
	} {
		if _, err := parseConfig(args, env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", args, err)
		}
	}
	bad := filepath.Join(t.TempDir(), "report.json")
	for _, text := range []string{"", "{", "[]", `{"fingerprints": [{"path": 1}]}`} {
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := read(bad); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("reading the report %s", bad)) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
