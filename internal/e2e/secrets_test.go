package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/report"
)

// jobToken is a token that a job has.
const jobToken = "ghs_e2eTokenOfAJob0123456789abcdefghijkl"

// places are the caches whose storage can be looked into.
func places(t *testing.T, f func(t *testing.T, cache, storage string)) {
	t.Run("oci", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "cache")
		f(t, "oci:"+dir, dir)
	})
	t.Run("distribution", func(t *testing.T) {
		t.Parallel()
		d := registrytest.NewDistribution(t)
		f(t, d.Addr+"/owner/repo/nix-cache", d.Dir)
	})
}

// stored looks for texts in all files below a folder, as they are and
// decompressed, uploads that were given up among them.
func stored(t *testing.T, dir string, texts ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	look := func(b []byte) {
		for _, text := range texts {
			found[text] = found[text] || bytes.Contains(b, []byte(text))
		}
	}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		look(b)
		if !bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")) {
			return nil
		}
		r, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			return err
		}
		defer r.Close()
		plain, _ := io.ReadAll(r) // of an upload that was given up, what there is
		look(plain)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// keyForms are what must not be found of the world's signing key.
func (w *world) keyForms() (text, digits, raw string) {
	w.Helper()
	b, err := os.ReadFile(w.keyFile)
	if err != nil {
		w.Fatal(err)
	}
	text = strings.TrimSpace(string(b))
	_, digits, _ = strings.Cut(text, ":")
	key, err := base64.StdEncoding.DecodeString(digits)
	if err != nil {
		w.Fatal(err)
	}
	return text, digits[:42], string(key[:32])
}

// leakyFlake is a plain folder with a signing key in it, as the README once had
// people make it, and packages of which some have secrets in them.
func (w *world) leakyFlake() string {
	w.Helper()
	key, err := os.ReadFile(w.keyFile)
	if err != nil {
		w.Fatal(err)
	}
	dir := filepath.Join(w.Dir, "leaky")
	nixtest.Write(w, dir, "key.secret", string(key))
	nixtest.Write(w, dir, "flake.nix", fmt.Sprintf(`{
  outputs = { self }:
    let
      mk = name: script: derivation {
        inherit name; system = "%s"; builder = "/bin/sh"; src = ./.; token = "%s" + "%s";
        args = [ "-ec" "export PATH=/usr/bin:/bin\n${script}" ];
      };
      uses = mk "uses" "echo $src > $out";
    in {
      packages.%[1]s = {
        inherit uses;
        above = mk "above" "echo ${uses} > $out";
        copied = mk "copied" "mkdir $out; cp $src/key.secret $out/";
        bytes = mk "bytes" "cut -d: -f2 $src/key.secret | base64 -d > $out";
        big = mk "big" "(head -c 12000001 /dev/urandom; cat $src/key.secret; head -c 3000000 /dev/urandom) > $out";
        token = mk "token" "echo a $token b > $out";
        name = mk "name" "mkdir $out; echo x > $out/$token";
        link = mk "link" "ln -s /some/$token/where $out";
        good = mk "good" "echo good-contents %[4]s > $out";
        bigger = mk "bigger" "(head -c 12000000 /dev/urandom; echo good-end-%[4]s) > $out";
      };
    };
}
`, system, jobToken[:20], jobToken[20:], filepath.Base(w.Dir)))
	return dir
}

// What has a secret in it is refused by name, with what refers to it. The rest
// is published, and no blob has a secret.
func TestSecretsAreNotPublished(t *testing.T) {
	t.Parallel()
	places(t, func(t *testing.T, cache, storage string) {
		w := newWorld(t)
		key, digits, raw := w.keyForms()
		flake := w.leakyFlake()
		for _, compression := range []string{"zstd", "none"} {
			cmd := w.command("publish", "--json", "--cache", cache, "--upstream", "none", "--sign-key-file", w.keyFile, "--flake", flake, "--compression", compression)
			cmd.Env = append(cmd.Env, "GITHUB_TOKEN="+jobToken)
			r := w.finish(cmd)
			if r.code != 3 || r.Status != "partly" {
				t.Fatalf("%s: got %d, %s\n%s", compression, r.code, r.Status, r.stderr)
			}
			why := map[string]string{}
			for _, f := range r.Failures {
				_, name, _ := strings.Cut(filepath.Base(f.Path), "-")
				if strings.HasSuffix(name, "-source") { // Nix 2.8 names it so
					name = "source"
				}
				why[name] = f.Error
			}
			for name, kind := range map[string]string{
				"source": "the signing key e2e-1", "copied": "the signing key e2e-1", "bytes": "the signing key e2e-1", "big": "the signing key e2e-1",
				"token": "the value of GITHUB_TOKEN", "name": "the value of GITHUB_TOKEN", "link": "the value of GITHUB_TOKEN",
				"uses": "something it refers to is missing", "above": "something it refers to is missing",
			} {
				if !strings.Contains(why[name], kind) {
					t.Errorf("%s, %s: got %q, want %q", compression, name, why[name], kind)
				}
				delete(why, name)
			}
			if len(why) > 0 {
				t.Errorf("%s: these failed, too: %v", compression, why)
			}
			if !strings.Contains(r.stderr, " is not published: it contains the signing key e2e-1") || !strings.Contains(r.stderr, "keep secrets elsewhere") {
				t.Errorf("%s: got messages\n%s", compression, r.stderr)
			}
			for _, secret := range []string{digits, jobToken} {
				if strings.Contains(r.stderr, secret) || strings.Contains(fmt.Sprintf("%+v", r), secret) {
					t.Errorf("%s: a secret is in the messages:\n%s", compression, r.stderr)
				}
			}
			var good []string
			for _, o := range r.Outputs {
				want := report.OutputLeftOut // no client gets it
				if strings.HasSuffix(o.Attr, ".good") || strings.HasSuffix(o.Attr, ".bigger") {
					good = append(good, o.Paths...)
					want = report.OutputBuilt
				}
				if o.Status != want || (want == report.OutputLeftOut) != (o.Reason != "") {
					t.Errorf("%s, %s: got %s (%q), want %s", compression, o.Attr, o.Status, o.Reason, want)
				}
			}
			w.newClient(w.proxy(cache)).substitute(good...)
			// the third is there, so the others would be found as well
			mark, end := "good-contents "+filepath.Base(w.Dir), "good-end-"+filepath.Base(w.Dir)
			got := stored(t, storage, key, digits, raw, jobToken, mark, end)
			if got[key] || got[digits] || got[raw] || got[jobToken] || !got[mark] || !got[end] {
				t.Errorf("%s: found in the storage: %v", compression, got)
			}
			if left, _ := filepath.Glob(filepath.Join(storage, "docker/registry/v2/repositories/owner/repo/nix-cache/_uploads/*/data")); len(left) > 0 {
				t.Errorf("%s: uploads that were given up: %v", compression, left)
			}
		}
	})
}

// A job that is killed in the middle of a large path has not sent the secret.
func TestSecretsWhenKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := registrytest.NewDistribution(t)
	_, digits, raw := w.keyForms()
	key, err := os.ReadFile(w.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	content := noise(rand.New(rand.NewPCG(1, 7)), 24<<20)
	paths := w.add("large", content[:12<<20]+string(key)+content[12<<20:])
	for _, after := range []time.Duration{100, 200, 300, 400, 600, 900} {
		cmd := w.command("publish", append([]string{"--cache", d.Addr + "/o/r", "--upstream", "none", "--compression", "none", "--sign-key-file", w.keyFile}, paths...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(after*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		if got := stored(t, d.Dir, digits, raw); got[digits] || got[raw] {
			t.Fatalf("killed after %d ms: the key is in the registry", after)
		}
	}
}

// The credential that docker or podman keeps for the registry is a secret, too,
// as it is and in the form of their file.
func TestLoginIsNotPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := registrytest.NewLocked(t)
	login := base64.StdEncoding.EncodeToString([]byte(registrytest.LockedUser + ":" + registrytest.LockedPassword))
	nixtest.Write(t, w.Dir, "login/config.json", `{"auths": {"`+d.Addr+`": {"auth": "`+login+`"}}}`)
	config, err := os.ReadFile(filepath.Join(w.Dir, "login", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	paths := append(w.add("config", string(config)), w.add("good", "good")...)
	cmd := w.command("publish", append([]string{"--json", "--cache", d.Addr + "/o/r", "--upstream", "none"}, paths...)...)
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+filepath.Join(w.Dir, "login"))
	r := w.finish(cmd)
	if r.code != 3 || len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Error, "it contains the login for "+d.Addr) {
		t.Errorf("got %d, %+v\n%s", r.code, r.Failures, r.stderr)
	}
	if got := stored(t, d.Dir, login); got[login] {
		t.Error("the login is in the registry")
	}
}

// A proxy refuses pushes that have its own secrets in them, and tells why.
func TestSecretsAreNotPushed(t *testing.T) {
	t.Parallel()
	places(t, func(t *testing.T, cache, storage string) {
		w := newWorld(t)
		_, digits, raw := w.keyForms()
		key, err := os.ReadFile(w.keyFile)
		if err != nil {
			t.Fatal(err)
		}
		w.publish(cache, w.add("first", "first")...)
		url := substituter(w.startProxy(cache, 2, w.signPushes()...))
		content := noise(rand.New(rand.NewPCG(2, 7)), 24<<20)
		for i, how := range []string{"zstd", "none", "xz", "zstd&write-nar-listing=1"} {
			large := content[i : 12<<20]
			if how == "xz" { // which is slow
				large = large[:1<<20]
			}
			for name, text := range map[string]string{"small": "a " + string(key), "large": large + string(key) + content[20<<20:]} {
				out, err := w.tryCopyTo(url+"?compression="+how, w.add(name, text)...)
				if err == nil || !strings.Contains(out, "403") || !strings.Contains(out, "the NAR contains the signing key e2e-1") || strings.Contains(out, digits) {
					t.Errorf("%s, %s: got %v\n%s", how, name, err, out)
				}
			}
		}
		good := w.add("good", "good-push "+filepath.Base(w.Dir))
		w.copyTo(url+"?compression=zstd", good...)
		mark := "good-push " + filepath.Base(w.Dir)
		if got := stored(t, storage, digits, raw, mark); got[digits] || got[raw] || !got[mark] {
			t.Errorf("found in the storage: %v", got)
		}
	})
}

// What the URL of a flake has of a login is in no record.
func TestFlakeWithALogin(t *testing.T) {
	t.Parallel()
	const password = "glpat-e2e-In-The-Flakes-URL"
	w := newWorld(t)
	var tarball bytes.Buffer
	zw := gzip.NewWriter(&tarball)
	tw := tar.NewWriter(zw)
	text := flakeText(t.Name(), "")
	if err := tw.WriteHeader(&tar.Header{Name: "flake/flake.nix", Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	_, err := io.WriteString(tw, text)
	if err != nil || tw.Close() != nil || zw.Close() != nil {
		t.Fatal(err)
	}
	logins := 0
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, p, _ := r.BasicAuth(); p != password {
			rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		logins++
		_, _ = rw.Write(tarball.Bytes())
	}))
	defer s.Close()
	dir := filepath.Join(t.TempDir(), "cache")
	flake := strings.Replace(s.URL, "://", "://me:"+password+"@", 1) + "/flake.tar.gz"
	cmd := w.command("publish", "--json", "--cache", "oci:"+dir, "--upstream", "none", "--flake", flake)
	cmd.Env = append(cmd.Env, "GITHUB_ACTIONS=true", "GITHUB_WORKFLOW=x", "GITHUB_REPOSITORY=o/r")
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil || logins == 0 {
		t.Fatalf("got %v after %d logins\n%s", err, logins, stderr.String())
	}
	if got := stored(t, dir, password, s.URL+"/flake.tar.gz"); got[password] || !got[s.URL+"/flake.tar.gz"] {
		t.Errorf("found in the storage: %v", got)
	}
	if strings.Contains(out.String(), password) {
		t.Errorf("the password is in the report:\n%s", out.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, password) && !strings.HasPrefix(line, "::add-mask::") {
			t.Errorf("the password is in the messages: %s", line)
		}
	}
}

// A builder that prints the signing key, or its secret part alone, finds nothing
// of it in the log that is published. The key came from a file.
func TestKeysAreTakenOutOfLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, digits, raw := w.keyForms()
	half := base64.StdEncoding.EncodeToString([]byte(raw))
	flake := w.flake(fmt.Sprintf(`{ outputs = { self }: { packages.%[1]s.default = derivation {
  name = "prints"; system = "%[1]s"; builder = "/bin/sh"; salt = "%[2]s";
  args = [ "-ec" "export PATH=/usr/bin:/bin; echo the-log-begins; cat %[3]s; cut -d: -f2 %[3]s; cut -d: -f2 %[3]s | base64 -d | head -c 32 | base64; echo x > $out" ];
}; }; }`, system, filepath.Base(w.Dir), w.keyFile))
	dir := filepath.Join(w.Dir, "cache")
	w.publish("oci:"+dir, "--flake", flake)
	if got := stored(t, dir, digits, half[:42], raw, "the-log-begins"); got[digits] || got[half[:42]] || got[raw] || !got["the-log-begins"] {
		t.Errorf("found in the storage: %v", got)
	}
}
