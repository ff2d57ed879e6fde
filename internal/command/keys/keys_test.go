package keys

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
)

// desk is where somebody changes the keys of a cache.
type desk struct {
	*testing.T
	cache, dir string
	env        map[string]string
}

func newDesk(t *testing.T, first ...indextest.Person) *desk {
	t.Helper()
	d := &desk{t, "oci:" + filepath.Join(t.TempDir(), "cache"), t.TempDir(), map[string]string{}}
	repo, err := registry.Open(d.cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	proxytest.PutBlob(t, repo, []byte("x"))
	proxytest.Publish(t, repo, indextest.KeysOf(first), proxytest.FileEntry("p", []byte("x")))
	return d
}

// secret writes the file of a secret key and returns the flag for it.
func (d *desk) secret(p indextest.Person) string {
	d.Helper()
	name, _, _ := strings.Cut(p.Public, ":")
	file := filepath.Join(d.dir, name+".secret")
	if err := os.WriteFile(file, []byte(p.Secret.String()), 0o600); err != nil {
		d.Fatal(err)
	}
	return "--sign-key-file=" + file
}

func (d *desk) run(args ...string) (status int, stdout, stderr string) {
	d.Helper()
	var out, err bytes.Buffer
	getenv := func(name string) string { return d.env[name] }
	status = Run(d.Context(), append([]string{"--cache", d.cache, "--cache-dir", filepath.Join(d.dir, "cache")}, args...), getenv, nil, &out, &err)
	return status, out.String(), err.String()
}

// must runs the command with --json.
func (d *desk) must(args ...string) (r result) {
	d.Helper()
	status, stdout, stderr := d.run(append(args, "--json")...)
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || status != cli.ExitDone {
		d.Fatalf("%v: got %d, %s%s", args, status, stdout, stderr)
	}
	return r
}

func is(got []string, want ...indextest.Person) bool {
	return slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(indextest.KeysOf(want).PublicKeys)))
}

func TestKeys(t *testing.T) {
	ps := indextest.People(t, 4)
	a, b, c, d := ps[0], ps[1], ps[2], ps[3]
	desk := newDesk(t, a, d)
	if _, stdout, _ := desk.run("list"); !strings.Contains(stdout, a.Public) || !strings.Contains(stdout, "trusted") {
		t.Errorf("got %s", stdout)
	}
	status, _, stderr := desk.run("add", b.Public, desk.secret(a))
	if status != cli.ExitDone || !strings.Contains(stderr, "no key has added "+d.Public) { // the second tenant is told of
		t.Errorf("got %d, %s", status, stderr)
	}
	file := filepath.Join(desk.dir, "c.public")
	if err := os.WriteFile(file, []byte(c.Public+"\n"+d.Public+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	desk.env["NIX_SIGNING_KEY"] = b.Secret.String()
	if r := desk.must("add", file); !is(r.Trusted, ps...) || len(r.Changes) != 2 {
		t.Errorf("got %+v", r)
	}
	if r := desk.must("add", file); len(r.Changes) != 0 {
		t.Errorf("again: got %+v", r)
	}
	desk.env = map[string]string{}
	// what only b has added goes with it, but for what is kept; d was first
	status, stdout, stderr := desk.run("retire", "key-1", "--dry-run", desk.secret(a))
	if status != cli.ExitDone || !strings.Contains(stderr, c.Public+" goes as well") || !strings.Contains(stdout, "retired") {
		t.Errorf("got %d, %s%s", status, stdout, stderr)
	}
	if r := desk.must("list"); len(r.Retired) > 0 {
		t.Errorf("a dry run has retired a key: %+v", r)
	}
	if r := desk.must("retire", b.Public, "--keep", c.Public, "--keep", d.Public, desk.secret(a)); !is(r.Trusted, a, c, d) || !is(r.Retired, b) {
		t.Errorf("got %+v", r)
	}
	e := indextest.NewPerson(t, "key-4")
	if r := desk.must("rotate", desk.secret(a), desk.secret(e)); !is(r.Trusted, c, d, e) || !is(r.Retired, a, b) || len(r.Changes) != 4 {
		t.Errorf("got %+v", r)
	}
	// an outsider cannot have it refuse a key by his own word that it is retired
	late, evil := indextest.NewPerson(t, "late-1"), indextest.NewPerson(t, "evil-1")
	repo, err := registry.Open(desk.cache, registry.Options{Push: true})
	if err != nil {
		t.Fatal(err)
	}
	proxytest.Publish(t, repo, indextest.KeysOf([]indextest.Person{late, evil}, evil.Retires(late)), proxytest.FileEntry("q", []byte("x")))
	if r := desk.must("add", late.Public, desk.secret(e), "--dry-run"); !is(r.Trusted, c, d, e, late) {
		t.Errorf("got %+v", r)
	}
	// who comes later sees the same
	desk.dir = t.TempDir()
	desk.env["NIXOCI_TRUSTED_KEY"] = e.Public
	if r := desk.must("list"); !is(r.Trusted, c, d, e) || !is(r.Retired, a, b, late) || !is(r.Unvouched, evil) {
		t.Errorf("got %+v", r)
	}
}

func TestKeysErrors(t *testing.T) {
	ps := indextest.People(t, 3)
	a, b, other := ps[0], ps[1], ps[2]
	one := newDesk(t, a)
	keyless := newDesk(t)
	for name, tt := range map[string]struct {
		desk   *desk
		args   []string
		status int
		text   string
	}{
		"nothing to do":           {one, nil, cli.ExitUsage, "must be one of list, add, rotate, retire"},
		"another word":            {one, []string{"remove"}, cli.ExitUsage, "must be one of"},
		"no key to add":           {one, []string{"add"}, cli.ExitUsage, "add needs a public key"},
		"a secret key to add":     {one, []string{"add", "S3CRET"}, cli.ExitUsage, "no public key"},
		"a key for list":          {one, []string{"list", a.Public}, cli.ExitUsage, "list takes no key"},
		"keep for add":            {one, []string{"add", b.Public, "--keep", a.Public}, cli.ExitUsage, "--keep is for retire"},
		"no key in hand":          {one, []string{"add", b.Public}, cli.ExitUsage, "no secret key in hand"},
		"no file":                 {one, []string{"add", b.Public, "--sign-key-file", "/nonexistent"}, cli.ExitUsage, "reading a signing key"},
		"another's key":           {one, []string{"add", b.Public, one.secret(other)}, cli.ExitFailed, "none of the keys in hand (key-2) is a trusted key of the cache (key-0)"},
		"a cache without keys":    {keyless, []string{"add", b.Public, keyless.secret(a)}, cli.ExitFailed, "the cache has no key yet"},
		"no such key":             {one, []string{"retire", "key-9", one.secret(a)}, cli.ExitFailed, "no such key"},
		"the only key":            {one, []string{"retire", "key-0", one.secret(a)}, cli.ExitFailed, "no key of the cache would be left"},
		"rotate to nothing":       {one, []string{"rotate", one.secret(a)}, cli.ExitUsage, "rotate needs two secret keys"},
		"rotate from nothing":     {one, []string{"rotate", one.secret(b), one.secret(other)}, cli.ExitFailed, "none of the keys in hand"},
		"a name for no statement": {one, []string{"add", "x;y" + b.Public[5:], one.secret(a)}, cli.ExitFailed, "has characters that no statement can have"},
	} {
		status, _, stderr := tt.desk.run(tt.args...)
		if status != tt.status || !strings.Contains(stderr, tt.text) || strings.Contains(stderr, "S3CRET") {
			t.Errorf("%s: got %d, %s", name, status, stderr)
		}
	}
	if r := one.must("list"); len(r.Statements) > 0 || !is(r.Trusted, a) {
		t.Errorf("got %+v", r)
	}
}
