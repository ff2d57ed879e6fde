package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/signing"
)

// keyList is what `nixoci keys --json` prints.
type keyList struct {
	Trusted, Retired, Unvouched []string
	Changes                     format.KeyStatements
	code                        int
	stderr                      string
}

// keys runs the command; root is a key that is known.
func (w *world) keys(cache, root string, args ...string) keyList {
	w.Helper()
	cmd := w.command("keys", append([]string{"--json", "--cache", cache, "--trusted-key", root, "--cache-dir", w.TempDir()}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, _ := cmd.Output()
	var l keyList
	if len(out) > 0 {
		if err := json.Unmarshal(out, &l); err != nil {
			w.Fatalf("%v\n%s", err, out)
		}
	}
	l.code, l.stderr = cmd.ProcessState.ExitCode(), stderr.String()
	return l
}

// newKey makes a key and returns the file with the secret and the public key.
func (w *world) newKey(name string) (file, public string) {
	w.Helper()
	file = filepath.Join(w.Dir, name+".secret")
	w.Env.Run(w, w.Dir, "nix-store", "--generate-binary-cache-key", name, file, filepath.Join(w.Dir, name+".public"))
	b, err := os.ReadFile(filepath.Join(w.Dir, name+".public"))
	if err != nil {
		w.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

func (w *world) loadKeys(file string) signing.Keys {
	w.Helper()
	keys, err := signing.Load([]string{file}, "")
	if err != nil {
		w.Fatal(err)
	}
	return keys
}

// told are the public keys that a proxy tells clients, and the status of that
// answer; conf is what it printed.
func (w *world) told(conf string) ([]string, int) {
	w.Helper()
	line, _, _ := strings.Cut(conf, "\n")
	resp, err := http.Get(strings.TrimPrefix(line, "extra-substituters = ") + "/public-key")
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode
	}
	return strings.Fields(string(b)), resp.StatusCode
}

// tells has a proxy look at its cache, and compares what it tells then.
func (w *world) tells(conf string, want ...string) {
	w.Helper()
	w.refresh(conf)
	got, _ := w.told(conf)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.Errorf("the proxy tells %v, want %v", got, want)
	}
}

// built are paths that only a signature makes acceptable.
func (w *world) built(names ...string) (paths []string) {
	w.Helper()
	for _, name := range names {
		paths = append(paths, w.build(`derivation { name = "keys-`+name+`"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo `+name+` > $out" ]; }`)...)
	}
	return paths
}

// refuses makes sure that a client takes no path of what a proxy says.
func (w *world) refuses(conf string, paths ...string) {
	w.Helper()
	for _, path := range paths {
		c := w.newClient(conf)
		w.Cleanup(func() { makeWritable(c.root) })
		if out, err := c.nix("build", "--no-link", path); err == nil {
			w.Errorf("a client took %s:\n%s", path, out)
		}
	}
}

// Keys from the first to the second, as docs/keys.md tells it: nobody without a
// key has a say, a client that takes the proxy's lines follows, and what is retired
// is gone.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := strings.TrimSpace(w.publicKey)
	cache := inDistribution(t)
	paths := w.built("first", "poisoned", "later", "last")
	w.publish(cache, paths[0])
	remembered := []string{"--cache-dir", w.TempDir()}
	running, messages := w.runProxy(2, append([]string{"--cache", cache}, remembered...)...)
	w.tells(running, old)

	// an attacker may write to the registry: his key, his statements, his program
	a := w.attacker(cache)
	evil := a.evil(paths[1], "echo poison")
	a.writeWith(format.KeyStatements{a.says(format.KeyStatement{Add: a.publicKey}), a.says(format.KeyStatement{Retire: old, Keeps: []string{a.publicKey}})}, a.sign(evil))
	w.tells(running, old)
	if said, err := os.ReadFile(messages); err != nil || !strings.Contains(string(said), "do not vouch") || !strings.Contains(string(said), a.publicKey) {
		t.Errorf("the proxy says nothing of it: %s, %v", said, err)
	}
	restarted := w.startProxy(cache, 2, remembered...)
	given := w.startProxy(cache, 2, "--trusted-key", "./public-key")
	for _, conf := range []string{restarted, given} {
		if strings.Contains(conf, "attacker") {
			t.Errorf("a client is told: %s", conf)
		}
		w.newClient(conf).substitute(paths[0])
		w.refuses(conf, paths[1])
	}
	attacking := filepath.Join(w.Dir, "attacker.secret")
	for _, args := range [][]string{{"add", a.publicKey}, {"retire", "e2e-1"}, {"rotate", "--sign-key-file", w.keyFile + "-2"}} {
		if l := w.keys(cache, old, append(args, "--sign-key-file", attacking)...); l.code == 0 || l.Changes != nil {
			t.Errorf("the attacker could %s: %+v", args[0], l)
		}
	}
	w.tells(running, old)

	// rotation: one commit, or nothing
	nextFile, next := w.newKey("next-1")
	both := []string{"--sign-key-file", w.keyFile, "--sign-key-file", nextFile}
	if l := w.keys(cache, old, append(both, "rotate", "--dry-run")...); l.code != 0 || !slices.Equal(l.Trusted, []string{next}) {
		t.Errorf("a dry run: got %+v", l)
	}
	w.tells(running, old)
	if l := w.keys(cache, "./public-key", append(both, "rotate")...); l.code != 0 || !slices.Equal(l.Trusted, []string{next}) || !slices.Equal(l.Retired, []string{old}) || !slices.Equal(l.Unvouched, []string{a.publicKey}) {
		t.Fatalf("got %+v", l)
	}
	w.tells(running, next)
	w.tells(restarted, next)
	w.tells(given, next)
	if r := w.publish(cache, paths[2]); !strings.Contains(r.stderr, "is retired") || !slices.Equal(r.PublicKeys, []string{next}) || !slices.Equal(r.RetiredKeys, []string{old}) {
		t.Errorf("nothing is said of a retired signing key: %+v\n%s", r.Publish, r.stderr)
	}
	if r := w.tryPublish(cache, "--upstream", "none", "--sign-key-file", nextFile, paths[3]); r.code != 0 || strings.Contains(r.stderr, "retired") {
		t.Errorf("got %d\n%s", r.code, r.stderr)
	}
	fresh := w.startProxy(cache, 2, remembered...)
	w.newClient(fresh).substitute(paths[3])
	w.refuses(fresh, paths[0], paths[1], paths[2])

	// a second tenant is one when somebody vouches for him
	tenantFile, tenant := w.newKey("tenant-1")
	theirs := w.built("theirs")
	r := w.tryPublish(cache, append([]string{"--upstream", "none", "--sign-key-file", tenantFile}, theirs...)...)
	if r.code != 0 || !strings.Contains(r.stderr, "none of them vouches for the signing key "+tenant) {
		t.Errorf("got %d\n%s", r.code, r.stderr)
	}
	w.tells(running, next)
	if l := w.keys(cache, old, "--sign-key-file", nextFile, "add", "./tenant-1.public"); l.code != 0 || len(l.Trusted) != 2 {
		t.Errorf("got %+v", l)
	}
	w.tells(running, next, tenant)
	w.newClient(w.startProxy(cache, 2, remembered...)).substitute(theirs...)

	// a collection keeps what was said, and a key that leaked is gone for good
	if c := w.gc(cache, "--retention", "0s", "--delay", "0s"); c.Error != "" {
		t.Fatal(c.Error)
	}
	w.tells(running, next, tenant)
	if l := w.keys(cache, old, "--sign-key-file", nextFile, "retire", "tenant-1"); l.code != 0 || !slices.Equal(l.Trusted, []string{next}) {
		t.Errorf("got %+v", l)
	}
	w.tells(running, next)
	for _, args := range [][]string{{"add", tenant}, {"add", old}} {
		if l := w.keys(cache, old, append(args, "--sign-key-file", nextFile)...); l.code == 0 || !strings.Contains(l.stderr, "never comes back") {
			t.Errorf("%v came back: %+v", args, l)
		}
	}
	if l := w.keys(cache, old, "--sign-key-file", nextFile, "retire", "next-1"); l.code == 0 || !strings.Contains(l.stderr, "no key of the cache would be left") {
		t.Errorf("the last key: got %+v", l)
	}
	// two keys that retire each other: nobody is trusted, and no line says ?trusted=1
	if l := w.keys(cache, old, "list"); l.code != 0 || len(l.Trusted) != 1 {
		t.Errorf("got %+v", l)
	}
	leaked := &attacker{w, cache, w.loadKeys(w.keyFile), a.publicKey}
	leaked.writeWith(format.KeyStatements{leaked.says(format.KeyStatement{Retire: next, Keeps: []string{a.publicKey}}), leaked.says(format.KeyStatement{Add: a.publicKey})})
	w.tells(running)
	if _, status := w.told(running); status != http.StatusConflict {
		t.Errorf("nothing to trust: got status %d", status)
	}
	if conf := w.startProxy(cache, 1, remembered...); strings.Contains(conf, "trusted") {
		t.Errorf("got %s", conf)
	}
	w.tells(w.startProxy(cache, 2, "--trusted-key", next), next)
}
