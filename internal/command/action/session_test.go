package action

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/nix"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/steplog"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// newTestSession makes a session whose program is a shell script.
func newTestSession(t *testing.T, script string, inputs ...string) (*session, *bytes.Buffer) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "nixoci")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	getenv := env(append([]string{"GITHUB_ACTIONS", "true", "INPUT_CACHE", "oci:/c", "INPUT_SUMMARY", "false"}, inputs...)...)
	cfg, err := parseConfig(getenv)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	return &session{
		cfg: cfg, getenv: getenv, env: os.Environ(), stderr: steplog.NewPulse(&out, steplog.Heartbeat), msg: ui.New(&out, getenv), program: program,
		state: state{Mode: modePublish, Dir: t.TempDir()},
	}, &out
}

// The secrets that the step is given are masked before anything else is printed,
// even if an input is wrong.
func TestSecretsAreMasked(t *testing.T) {
	var out bytes.Buffer
	_, err := newSession(env("GITHUB_ACTIONS", "true", "INPUT_CACHE", "oci:/c", "INPUT_TOKEN", "a-token-of-the-job", "INPUT_SIGNING-KEY", "cache-1:c2VjcmV0", "INPUT_TRUST-EVENT", "push"), &out)
	if err == nil {
		t.Error("a wrong input is taken")
	}
	for _, secret := range []string{"a-token-of-the-job", "cache-1:c2VjcmV0"} {
		if !strings.Contains(out.String(), "::add-mask::"+secret+"\n") {
			t.Errorf("%s is not masked:\n%s", secret, &out)
		}
	}
}

// How a failed publish ends the step.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, script, onError string
		status                int
		want                  string
	}{
		{"done", `echo '{}'`, "fail", 0, ""},
		{"partly", `echo '{"status": "partly"}'; echo ::error::x >&2; exit 3`, "fail", 3, "::error::x\n"},
		{"partly, which is fine", `echo '{"status": "partly"}'; echo ::error::x >&2; exit 3`, "warn", 0, "::warning::x\n"},
		{"denied", `echo '{"denied": true}'; echo ::error::x >&2; exit 1`, "warn", 1, "::error::x\n"},
		{"wrong inputs", `echo ::error::x >&2; exit 2`, "warn", 2, "::error::x\n"},
		{"no report", `echo ::error::x >&2; exit 1`, "warn", 0, "::warning::x\n"},
		{"killed", `kill -9 $$`, "fail", -1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, out := newTestSession(t, tc.script, "INPUT_ON-ERROR", tc.onError)
			err := s.publish(t.Context())
			status := 0
			if f := (failed{}); errors.As(err, &f) {
				status = f.status
			} else if err != nil {
				t.Fatal(err)
			}
			if status != tc.status || out.String() != tc.want {
				t.Errorf("got status %d and %q, want %d and %q", status, out.String(), tc.status, tc.want)
			}
		})
	}
}

// A command that ends before its report has failed, and nothing was published.
func TestNoReport(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		`echo "::error::--include \"[\" is no glob%0Ahint: mend it" >&2; exit 2`: "include \"[\" is no glob\nhint: mend it",
		`kill -9 $$`: "publish ended without a report: signal: killed",
	} {
		s, _ := newTestSession(t, script)
		var r report.Publish
		if _, _, err := s.run(t.Context(), publishCommand, nil, &r); err != nil || r.Status != report.Failed || r.OtherError != want {
			t.Errorf("%s: got %q, %q, %v, want %q", script, r.Status, r.OtherError, err, want)
		}
	}
}

// The deadline stops the command, which reports what it has done.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s, out := newTestSession(t, `
trap 'echo "{\"status\": \"failed\", \"uploaded\": {\"paths\": 7}}"; exit 130' TERM
while :; do sleep 0.01; done`, "INPUT_DEADLINE", "500ms")
	var r report.Publish
	status, _, err := s.run(t.Context(), publishCommand, nil, &r)
	if err != nil || status != cli.ExitInterrupted || r.Uploaded.Paths != 7 || !strings.Contains(out.String(), "the deadline of 500ms has passed") {
		t.Errorf("got %d, %v, %+v, %s", status, err, r.Uploaded, out.String())
	}
}

// A failed output becomes an annotation that its own text cannot leave.
func TestAnnotate(t *testing.T) {
	t.Parallel()
	for _, text := range nasty {
		s, out := newTestSession(t, "")
		s.annotate(&report.Publish{Outputs: []report.Output{{Attr: text, Status: "failed", Reason: text, Message: text, FailedDrv: text, Log: text}, {Attr: "x", Status: "built"}}}, false)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if len(lines) != 1 || !strings.HasPrefix(lines[0], "::error title=") || strings.ContainsAny(lines[0], "\r\x1b") {
			t.Errorf("with %q: got %q", text, out.String())
		}
		if head, _, _ := strings.Cut(strings.TrimPrefix(lines[0], "::error title="), "::"); strings.ContainsAny(head, ",:") {
			t.Errorf("with %q the title is %q", text, head)
		}
	}
}

// GitHub shows ten annotations of a step. What many outputs need is told once,
// what has no room is counted.
func TestAnnotateMany(t *testing.T) {
	t.Parallel()
	drv := func(name string) string { return "/nix/store/00000000000000000000000000000000-" + name + ".drv" }
	several := func(n int) (list []report.Output) {
		for i := range n {
			list = append(list, report.Output{Attr: fmt.Sprint("p", i), Status: "failed", Reason: "build failed", FailedDrv: drv(fmt.Sprint("d", i))})
		}
		return list
	}
	for _, tc := range []struct {
		name    string
		outputs []report.Output
		want    []string // the titles
	}{
		{"one cause", []report.Output{
			{Attr: "a", Status: "failed", Reason: "build failed", FailedDrv: drv("lib"), Log: "the log"}, {Attr: "x", Status: "built"},
			{Attr: "b", Status: "failed", Reason: "build failed", FailedDrv: drv("lib"), Log: "the log"},
		}, []string{"a%2C b"}},
		{"all have room", several(9), []string{"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"}},
		{"too many", several(30), []string{"p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "22 more failed"}},
	} {
		s, out := newTestSession(t, "")
		s.annotate(&report.Publish{Outputs: tc.outputs}, true)
		var titles []string
		for line := range strings.Lines(out.String()) {
			title, _, _ := strings.Cut(strings.TrimPrefix(line, "::warning title="), "::")
			titles = append(titles, title)
		}
		if !slices.Equal(titles, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, titles, tc.want)
		}
		if tc.name == "one cause" && (strings.Count(out.String(), "the log") != 1 || !strings.Contains(out.String(), "::a, b: build failed, in lib%0A")) {
			t.Errorf("got %s", out)
		}
	}
}

func TestConfText(t *testing.T) {
	t.Parallel()
	const url = "http://127.0.0.1:1"
	for want, keys := range map[string][]string{
		"extra-substituters = " + url + "\nextra-trusted-public-keys = a:1 b:2\nnarinfo-cache-negative-ttl = 0\n": {"a:1", "b:2"},
		"extra-substituters = " + url + "?trusted=1\nnarinfo-cache-negative-ttl = 0\n":                            nil,
	} {
		if got, err := confText(url, keys, nix.Version{Major: 2, Minor: 8}); err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}

// Each Nix knows the settings that it gets. From 2.34 on, a proxy that has died
// fails no build any more.
func TestConfTextWithNix(t *testing.T) {
	t.Parallel()
	nixtest.EachVersion(t, func(t *testing.T, v nixtest.Version) {
		e := v.New(t)
		version, err := nix.New(nix.Options{Env: e.Vars}).Version(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/nix-cache-info" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = io.WriteString(w, "StoreDir: "+e.Store+"\n")
		}))
		defer proxy.Close()
		conf, err := confText(proxy.URL, nil, version)
		if err != nil {
			t.Fatal(err)
		}
		nixtest.Write(t, filepath.Join(e.Dir, "etc"), "nix.conf", conf)
		// which would come before the file
		e.Vars = append(e.Vars, "NIX_CONFIG=system = x86_64-linux\nsandbox = false\nbuild-users-group =\ndownload-attempts = 1\nexperimental-features = nix-command flakes\n")
		build := func(name string) (string, error) {
			return e.Try(e.Dir, "sh", "-c", `nix build --no-link --impure --expr "$0" 2>&1`, fmt.Sprintf(`derivation { name = "%s"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }`, name))
		}
		if out, err := build("first"); err != nil || strings.Contains(out, "unknown setting") {
			t.Errorf("got %v: %s", err, out)
		}
		proxy.Close()
		if out, err := build("second"); (err == nil) != version.HasCacheInfoTTL() {
			t.Errorf("when the proxy has died: got %v: %s", err, out)
		}
	})
}

// The user's own files stay in force.
func TestUserConfFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env  []string
		want string
	}{
		{[]string{"HOME=/h"}, "/h/.config/nix/nix.conf:/etc/xdg/nix/nix.conf"},
		{[]string{"HOME=/h", "XDG_CONFIG_HOME=/c", "XDG_CONFIG_DIRS=/a:/b"}, "/c/nix/nix.conf:/a/nix/nix.conf:/b/nix/nix.conf"},
		{[]string{"HOME=/h", "NIX_USER_CONF_FILES=/x:/y"}, "/x:/y"},
	} {
		if got := (&session{env: tc.env}).userConfFiles(); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.env, got, tc.want)
		}
	}
}

// A step that never began, or lost its proxy, ends without noise or harm.
func TestPostAlone(t *testing.T) {
	t.Parallel()
	s, out := newTestSession(t, "exit 9")
	if err := s.post(t.Context()); err != nil || out.Len() > 0 {
		t.Errorf("without a state: got %v, %s", err, out)
	}
	s.state = state{Dir: t.TempDir(), URL: "http://127.0.0.1:1", PID: os.Getpid(), Started: time.Now()}
	if err := os.WriteFile(s.confFile(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.endSubstituter() // the process with this number is not the proxy, and lives on
	if text, err := os.ReadFile(s.confFile()); err != nil || len(text) > 0 {
		t.Errorf("Nix's configuration: got %q, %v, want nothing", text, err)
	}
	if !strings.Contains(out.String(), "the proxy has gone before the job's end") {
		t.Errorf("got %s", out)
	}
}
