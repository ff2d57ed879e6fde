package e2e

import (
	"context"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/storepath"
)

// attacker may write to a cache's registry. He has a key of his own, and not
// the cache's.
type attacker struct {
	w         *world
	cache     string
	keys      signing.Keys
	publicKey string
}

func (w *world) attacker(cache string) *attacker {
	w.Helper()
	secret := filepath.Join(w.Dir, "attacker.secret")
	w.Env.Run(w, w.Dir, "nix-store", "--generate-binary-cache-key", "attacker-1", secret, secret+".public")
	keys, err := signing.Load([]string{secret}, "")
	if err != nil {
		w.Fatal(err)
	}
	return &attacker{w, cache, keys, keys.PublicKeys()[0]}
}

// evil is an entry for a store path with contents of the attacker's, whose NAR
// is in the registry.
func (a *attacker) evil(path, contents string) format.Entry {
	w := a.w
	w.Helper()
	nixtest.Write(w, w.Dir, "evil", contents)
	nar, err := exec.Command(w.Program(w, "nix-store"), "--dump", filepath.Join(w.Dir, "evil")).Output()
	if err != nil {
		w.Fatal(err)
	}
	repo, err := registry.Open(a.cache, registry.Options{Push: true})
	if err != nil {
		w.Fatal(err)
	}
	blob, err := repo.PutBlob(context.Background(), nar)
	if err != nil {
		w.Fatal(err)
	}
	parsed, err := storepath.Parse(path)
	if err != nil {
		w.Fatal(err)
	}
	sum := sha256.Sum256(nar)
	hash := "sha256:" + nixbase32.EncodeToString(sum[:])
	size := int64(len(nar))
	return format.Entry{
		Path: parsed, NarHash: hash, NarSize: size, Compression: bincache.CompressionNone, FileHash: hash,
		NAR: format.Location{Blob: blob.Digest, BlobSize: size, Size: size},
	}
}

// sign adds the attacker's signature.
func (a *attacker) sign(e format.Entry) format.Entry {
	a.w.Helper()
	var err error
	if e.Signatures, err = a.keys.Sign(e.Fingerprint(), e.Signatures); err != nil {
		a.w.Fatal(err)
	}
	return e
}

// write puts entries into the cache, and the attacker's key among the keys that
// the cache names.
func (a *attacker) write(entries ...format.Entry) {
	a.w.Helper()
	a.writeWith(nil, entries...)
}

// says signs a statement about a key.
func (a *attacker) says(s format.KeyStatement) format.KeyStatement {
	a.w.Helper()
	s.Time, s.By = time.Now(), a.keys.PublicKeys()[0]
	sigs, err := a.keys.Sign(s.Fingerprint(), nil)
	if err != nil {
		a.w.Fatal(err)
	}
	s.Signature = sigs[0]
	return s
}

// writeWith writes statements about keys as well.
func (a *attacker) writeWith(said format.KeyStatements, entries ...format.Entry) {
	a.w.Helper()
	ctx := context.Background()
	repo, err := registry.Open(a.cache, registry.Options{Push: true})
	if err != nil {
		a.w.Fatal(err)
	}
	c := index.Open(repo, index.Options{Settle: time.Millisecond})
	base, err := c.Sweep(ctx)
	if err != nil {
		a.w.Fatal(err)
	}
	writer, err := c.NewWriter(base, index.WriterOptions{Config: format.Config{StoreDir: a.w.Store, PublicKeys: []string{a.publicKey}, KeyStatements: said}})
	if err != nil {
		a.w.Fatal(err)
	}
	for _, e := range entries {
		if err := writer.Add(ctx, e); err != nil {
			a.w.Fatal(err)
		}
	}
	if said != nil {
		if err := writer.RecordConfig(ctx); err != nil {
			a.w.Fatal(err)
		}
	}
	if r, err := writer.Close(ctx, nil); err != nil || r.Committed != len(entries) {
		a.w.Fatalf("the attacker could not write: %+v, %v", r, err)
	}
}

// entry is what a cache has of a path.
func (w *world) entry(cache, path string) format.Entry {
	w.Helper()
	e, ok := sweep(w.T, cache).Lookup(hashPart(path))
	if !ok {
		w.Fatalf("the cache does not have %s", path)
	}
	return e
}

// signed reports whether the world's key has signed an entry.
func (w *world) signed(e format.Entry) bool {
	return signing.SignedBy([]string{w.publicKey}, e.Fingerprint(), e.Signatures)
}

// strict makes a client that trusts only the real key, whatever the cache says.
func (w *world) strict(cache string) *client {
	w.Helper()
	c := w.newClient("extra-substituters = " + substituter(w.startProxy(cache, 1)) + "\nextra-trusted-public-keys = " + w.publicKey + "\n")
	w.Cleanup(func() { makeWritable(c.root) })
	return c
}

// planned are the paths of a flake's packages, which an attacker can compute as
// well.
func (w *world) planned(flake, name string) string {
	w.Helper()
	return w.Nix(w, w.Dir, "eval", "--raw", "path:"+flake+"#"+name+".outPath")
}

// An attacker who may write to the registry, and has no key of ours, puts a
// program of his into the cache where the next job looks for a dependency, and
// his key among the cache's. A job with the signing key does not take it, nor
// sign it: in cache mode and where the flake is published.
func TestActionSignsNoPoison(t *testing.T) {
	t.Parallel()
	for name, workflow := range map[string]string{
		"cache": strings.Replace(cacheWorkflow, "exit 7", "true", 1),
		"publish": `
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v7
      - uses: org/nixoci-action@v1
        with: {flake: ., include: packages.*.app, signing-key: "${{ secrets.SIGNING_KEY }}"}
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			cache := inDistribution(t)
			w.inStore(cache)
			secret, err := os.ReadFile(w.keyFile)
			if err != nil {
				t.Fatal(err)
			}
			nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""), "secrets", "SIGNING_KEY="+string(secret)+"\n")
			repo := filepath.Join(w.Dir, "repo")
			lib, app := w.planned(repo, "lib"), w.planned(repo, "app")
			a := w.attacker(cache)
			evil := a.evil(lib, "echo poison")
			a.write(a.sign(evil))
			w.forget()

			j := w.act(workflow, "--secret-file", filepath.Join(w.Dir, "secrets"))
			j.wants(0, "building '", "published")
			j.lacks("copying path '" + lib)
			if key := j.output("public-key"); key != w.publicKey {
				t.Errorf("the job trusts %s, want its own key only", key)
			}
			for _, path := range []string{lib, app} {
				e := w.entry(cache, path)
				if e.NarHash == evil.NarHash {
					t.Errorf("%s: the cache still has the attacker's program (signed by us: %v)", path, w.signed(e))
				} else if !w.signed(e) {
					t.Errorf("%s: the real one is not signed", path)
				}
			}
			w.strict(cache).substitute(app, lib)
		})
	}
}

// A key that the job was given is as good as its own: what it has signed is
// substituted, and signed.
func TestActionTrustsGivenKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cache := inDistribution(t)
	w.inStore(cache)
	friend := w.attacker(cache)
	secret, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	nixtest.Write(t, w.Dir, "repo/flake.nix", flakeText(t.Name(), ""), "secrets", "SIGNING_KEY="+string(secret)+"\n")
	lib := w.planned(filepath.Join(w.Dir, "repo"), "lib")
	theirs := friend.evil(lib, "built by a friend")
	friend.write(friend.sign(theirs))
	w.forget()
	j := w.act(strings.NewReplacer("exit 7", "true", "signing-key:", "trusted-keys: "+friend.publicKey+"\n          signing-key:").Replace(cacheWorkflow), "--secret-file", filepath.Join(w.Dir, "secrets"))
	j.wants(0, "copying path '"+lib, "published")
	j.lacks("not signed")
	if e := w.entry(cache, lib); e.NarHash != theirs.NarHash || !w.signed(e) {
		t.Errorf("got %s, signed by us: %v; want what the friend has built, signed", e.NarHash, w.signed(e))
	}
	// without the secret, as in a pull request from a fork, nothing else is taken
	poisoned := w.planned(filepath.Join(w.Dir, "repo"), "app")
	other := w.attacker(cache) // with another key of the same name
	other.write(other.sign(other.evil(poisoned, "poison")))
	w.forget()
	fork := w.act(strings.NewReplacer("exit 7", "true", "signing-key: ${{ secrets.SIGNING_KEY }}", "trusted-keys: "+friend.publicKey).Replace(cacheWorkflow))
	fork.wants(0, "copying path '"+lib, "building '")
	fork.lacks("copying path '" + poisoned)
}

// What was substituted or copied into the store is published, and not signed,
// unless a key has signed it that was given. The user is told.
func TestSubstitutedIsNotSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flake := w.flake(flakeText(t.Name(), ""))
	cache := "oci:" + filepath.Join(w.Dir, "cache")
	w.publish(cache, w.add("first", "first")...)
	lib := w.planned(flake, "lib")
	a := w.attacker(cache)
	evil := a.evil(lib, "echo poison")
	a.write(a.sign(evil))
	w.forget()
	// somehow it comes into the store, and the program is built on it
	w.Nix(w, w.Dir, "copy", "--no-check-sigs", "--from", substituter(w.startProxy(cache, 2)), lib)
	args := []string{"--flake", flake, "--include", "packages.*.app", "--include", "packages.*.lib"}
	for _, to := range []string{cache, "oci:" + filepath.Join(w.Dir, "another")} { // in the index already, and uploaded
		for range 2 {
			r := w.publish(to, args...)
			e := w.entry(to, lib)
			if e.NarHash != evil.NarHash || w.signed(e) {
				t.Errorf("what came from elsewhere: got %s, signed by us: %v", e.NarHash, w.signed(e))
			}
			if r.Unsigned.Paths != 1 || !slices.Equal(r.UnsignedPaths, []string{lib}) || !strings.Contains(r.stderr, "1 path not signed: ") ||
				!strings.Contains(r.stderr, "attacker-1") || !strings.Contains(r.stderr, "hint: ") || !strings.Contains(r.stderr, "--trusted-key") {
				t.Errorf("got %+v %v\n%s", r.Unsigned, r.UnsignedPaths, r.stderr)
			}
			app := r.named("app")
			if !w.signed(w.entry(to, app)) {
				t.Error("what was built here is not signed")
			}
			if out, err := w.strict(to).nix("build", "--no-link", app); err == nil {
				t.Errorf("a client that trusts only our key installed it:\n%s", out)
			}
		}
		// who trusts that key says so
		r := w.publish(to, append(args, "--trusted-key", a.publicKey)...)
		if !w.signed(w.entry(to, lib)) || r.Unsigned.Paths != 0 || strings.Contains(r.stderr, "not signed") {
			t.Errorf("with --trusted-key: got %+v, signed by us: %v\n%s", r.Unsigned, w.signed(w.entry(to, lib)), r.stderr)
		}
	}
	for key, want := range map[string]string{"nonsense": "no public key", a.publicKey + "x": "attacker-1 is no public key"} {
		if r := w.tryPublish(cache, append(args, "--trusted-key", key)...); r.code != 2 || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "nonsense") {
			t.Errorf("--trusted-key %s: got %d\n%s", key, r.code, r.stderr)
		}
	}
}

// The index says of a path what is not so: that it needs nothing, or has another
// size. That is replaced by what the store says, and never signed.
func TestPublishReplacesLies(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(e *format.Entry){
		"references": func(e *format.Entry) { e.References = nil },
		"size":       func(e *format.Entry) { e.NarSize++ },
	} {
		for _, key := range []bool{true, false} {
			t.Run(name+map[bool]string{true: " with a key", false: " without a key"}[key], func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				cache := inDistribution(t)
				flake := w.flake(flakeText(t.Name(), ""))
				args := []string{"--upstream", "none", "--flake", flake, "--include", "packages.*.app"}
				first := w.tryPublish(cache, args...)
				if first.code != 0 {
					t.Fatal(first.stderr)
				}
				app := first.named("app")
				truth := w.entry(cache, app)
				if len(truth.References) == 0 {
					t.Fatal("the program needs nothing")
				}
				a := w.attacker(cache)
				e := truth
				lie(&e)
				a.write(a.sign(e))
				if key {
					args = append(args, "--sign-key-file", w.keyFile)
				}
				r := w.tryPublish(cache, args...)
				if r.code != 0 || r.Reused.Paths+r.Uploaded.Paths != 1 {
					t.Errorf("got %d, %+v\n%s", r.code, r, r.stderr)
				}
				e = w.entry(cache, app)
				if e.Fingerprint() != truth.Fingerprint() {
					t.Errorf("got %s, want %s", e.Fingerprint(), truth.Fingerprint())
				}
				if !key {
					return
				}
				if !w.signed(e) {
					t.Error("the truth is not signed")
				}
				c := w.strict(cache)
				c.substitute(app)
				c.same(w.planned(flake, "lib"))
			})
		}
	}
}

// realised counts the realisations of a path that the world's key has signed, and
// says whether one of them is of drv.
func (w *world) realised(cache, path, drv string) (signed int, of bool) {
	w.Helper()
	e := w.entry(cache, path)
	for _, r := range e.Realisations {
		if signing.SignedBy([]string{w.publicKey}, r.Fingerprint(e.Path.Base()), r.Signatures) {
			signed++
			of = of || r.Drv == drv
		}
	}
	return signed, of
}

// The index names a deriver that has not made a content-addressed path, with a
// realisation or without. Nothing is signed of that, and what is so is.
func TestPublishSignsNoForgedRealisation(t *testing.T) {
	t.Parallel()
	const sudo = "11111111111111111111111111111111-sudo.drv"
	for name, forged := range map[string][]format.Realisation{"deriver": nil, "realisation": {{Drv: sudo, Output: "out"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.addConf("extra-experimental-features = ca-derivations\n")
			cache := "oci:" + filepath.Join(w.Dir, "cache")
			args := []string{"--upstream", "none", "--flake", w.flake(extrasFlake("one")), "--include", "packages.*.ca"}
			first := w.tryPublish(cache, args...)
			if first.code != 0 {
				t.Fatal(first.stderr)
			}
			app := first.named("ca-app")
			a := w.attacker(cache)
			e := w.entry(cache, app)
			e.Deriver = sudo
			e.Realise(forged...)
			a.write(e)
			args = append(args, "--sign-key-file", w.keyFile)
			if r := w.tryPublish(cache, args...); r.code != 0 {
				t.Fatal(r.stderr)
			}
			if !w.signed(w.entry(cache, app)) {
				t.Error("the path is not signed")
			}
			signed, of := w.realised(cache, app, sudo)
			if of {
				t.Errorf("we have signed that %s makes it", sudo)
			}
			if signed != 2 { // by its ID, and by the derivation
				t.Errorf("got %d realisations of ours, want 2", signed)
			}
			if again := w.tryPublish(cache, args...); again.code != 0 || again.Repeated != 0 {
				t.Errorf("again: got %d, %d repeated\n%s", again.code, again.Repeated, again.stderr)
			}
		})
	}
}

// Nix takes realisations from substituters unseen. What it has taken is published,
// and not signed.
func TestPublishSignsNoSubstitutedRealisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addConf("extra-experimental-features = ca-derivations\n")
	theirs, ours := "oci:"+filepath.Join(w.Dir, "theirs"), "oci:"+filepath.Join(w.Dir, "ours")
	flake := w.flake(extrasFlake("one"))
	args := []string{"--upstream", "none", "--flake", flake, "--include", "packages.*.ca"}
	first := w.tryPublish(theirs, args...)
	if first.code != 0 {
		t.Fatal(first.stderr)
	}
	w.forget()
	url := substituter(w.startProxy(theirs, 1))
	w.Nix(w, w.Dir, "build", "--no-link", "path:"+flake+"#ca", "path:"+flake+"#ca.dev", "--extra-substituters", url, "--max-jobs", "0")
	if r := w.tryPublish(ours, append(args, "--sign-key-file", w.keyFile)...); r.code != 0 {
		t.Fatal(r.stderr)
	}
	app := first.named("ca-app")
	if signed, _ := w.realised(ours, app, ""); signed != 0 || len(w.entry(ours, app).Realisations) == 0 {
		t.Errorf("got %d realisations signed, of %+v; want none", signed, w.entry(ours, app).Realisations)
	}
	if !w.signed(w.entry(ours, app)) {
		t.Error("the path, whose name proves its contents, is not signed")
	}
}
