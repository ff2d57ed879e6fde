package nix

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/registrytest"
)

// arguments is the command line of a service, as systemd reads it.
func arguments(t *testing.T, s *service) []string {
	t.Helper()
	text, _ := s.ServiceConfig["ExecStart"].(string)
	return unquote(t, text)
}

// unquote splits a command line of systemd: words, some of them in double
// quotes with C's escapes.
func unquote(t *testing.T, line string) []string {
	t.Helper()
	var args []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			args, line = append(args, word), rest
			continue
		}
		d := json.NewDecoder(strings.NewReader(line))
		var word string
		if err := d.Decode(&word); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		args, line = append(args, strings.NewReplacer("%%", "%", "$$", "$").Replace(word)), line[d.InputOffset():]
	}
	return args
}

// Whatever stands in an option reaches the program as it is.
func TestQuoting(t *testing.T) {
	t.Parallel()
	const options = `cache = "oci:/srv/a b/100%/$HOME/\"x\"/ü"; requireSignatures = false; extraArgs = [ "--upstream" "https://x/?a=\\%20'" ];`
	want := []string{"/opt/nixoci/bin/nixoci", "proxy", "--listen", "127.0.0.1:37515", "--refresh", "5m", "--cache", `oci:/srv/a b/100%/$HOME/"x"/ü`, "--upstream", `https://x/?a=\%20'`, "--cache-dir"}
	s := evaluate(t, "nixos.nix", "x86_64-linux", options).Service
	if got := arguments(t, s); !reflect.DeepEqual(got[:len(got)-1], want) {
		t.Errorf("NixOS: got  %q\nwant %q", got, want)
	}
	if line := s.ServiceConfig["ExecStart"].(string); strings.Count(line, "%")-2*strings.Count(line, "%%") != 1 || strings.Count(line, "$") != 2*strings.Count(line, "$$") {
		t.Errorf("something is left for systemd to expand: %s", line)
	}
	u := evaluate(t, "home-manager.nix", "x86_64-linux", options).UserService["Service"]["ExecStart"].(string)
	if got := unquote(t, u); !reflect.DeepEqual(got[:len(got)-1], want) {
		t.Errorf("home-manager on Linux: got  %q\nwant %q", got, want)
	}
	a := evaluate(t, "home-manager.nix", "aarch64-darwin", options).Agent.Config.ProgramArguments
	if !reflect.DeepEqual(a[:len(a)-1], want) {
		t.Errorf("home-manager on macOS: got  %q\nwant %q", a, want)
	}
	// nix-darwin's is a shell's
	command := evaluate(t, "darwin.nix", "aarch64-darwin", options).Daemon.Command
	out, err := exec.Command("/bin/sh", "-c", "printf '%s\\n' "+command).Output()
	if got := strings.Split(string(out), "\n"); err != nil || !reflect.DeepEqual(got[:len(want)], want) {
		t.Errorf("nix-darwin: got  %q, %v\nwant %q", got, err, want)
	}
}

// systemd understands the unit, and finds little that is not locked.
func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		registrytest.Missing(t, "systemd-analyze is not installed (on Debian: apt-get install systemd)")
	}
	for name, options := range map[string]string{"plain": signed, "all": signed + `port = 80; tokenFile = "/run/t"; username = "x"; passwordFile = "/run/p"; dockerConfigFile = "/d/config.json";`} {
		s := evaluate(t, "nixos.nix", "x86_64-linux", options).Service
		text := strings.Replace(s.unit(), `"/opt/nixoci/bin/nixoci"`, "/bin/true", 1) // what is verified must exist
		file := filepath.Join(t.TempDir(), "nixoci-proxy.service")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", file).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: systemd-analyze verify: %v\n%s\n%s", name, err, out, text)
		}
		user := filepath.Join(t.TempDir(), "nixoci-proxy.service")
		text = strings.Replace(userUnit(evaluate(t, "home-manager.nix", "x86_64-linux", options).UserService), `"/opt/nixoci/bin/nixoci"`, "/bin/true", 1)
		if err := os.WriteFile(user, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		verify := exec.Command("systemd-analyze", "--user", "verify", "--man=no", "--recursive-errors=no", user)
		verify.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: systemd-analyze --user verify: %v\n%s\n%s", name, err, out, text)
		}
		// in tenths; 96 without any of it
		out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: systemd-analyze security: %v\n%s", name, err, out)
		}
	}
}

// proxyDir has the program in bin.
var proxyDir = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nixoci")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+"/bin/", "../cmd/nixoci").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the proxy: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := proxyDir(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// The program takes each of the command lines that the modules make.
func TestCommandLines(t *testing.T) {
	t.Parallel()
	dir, err := proxyDir()
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf(`cache = "oci:%s"; requireSignatures = false; upstreams = [ "https://a.example" "https://b.example" ]; refresh = "1h"; tokenFile = %q; username = "me"; passwordFile = %[2]q;`, t.TempDir(), secret)
	with := func(module, system string) evaluated {
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return evaluateConfig(t, module, system, fmt.Sprintf("xdg.cacheHome = %q; services.nixoci-proxy = { enable = true; package = %q; port = %d; %s };",
			t.TempDir(), dir, l.Addr().(*net.TCPAddr).Port, options))
	}

	nixos := with("nixos.nix", "x86_64-linux")
	args := arguments(t, nixos.Service)
	for i := range args {
		args[i] = strings.Replace(args[i], "%C", t.TempDir(), 1)
	}
	var env []string
	for name, value := range nixos.Service.Environment {
		// systemd's copies of the files
		env = append(env, name+"="+strings.NewReplacer("%d/token", secret, "%d/password", secret).Replace(value))
	}
	serves(t, nixos, args, env)

	darwin := with("darwin.nix", "aarch64-darwin")
	env = nil
	for name, value := range darwin.Daemon.Environment {
		env = append(env, name+"="+value)
	}
	command := strings.Replace(darwin.Daemon.Command, "/private/var/lib", t.TempDir(), 1)
	serves(t, darwin, []string{"/bin/sh", "-c", "exec " + command}, env)

	linux := with("home-manager.nix", "x86_64-linux")
	env = nil
	for _, e := range linux.UserService["Service"]["Environment"].([]any) {
		env = append(env, unquote(t, e.(string))...)
	}
	serves(t, linux, unquote(t, linux.UserService["Service"]["ExecStart"].(string)), env)

	mac := with("home-manager.nix", "aarch64-darwin")
	env = nil
	for name, value := range mac.Agent.Config.EnvironmentVariables {
		env = append(env, name+"="+value)
	}
	serves(t, mac, mac.Agent.Config.ProgramArguments, env)
}

// serves runs a command line until the proxy is ready, and asks it where Nix is
// told that it is.
func serves(t *testing.T, e evaluated, args, env []string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	ready, err := bufio.NewReader(stdout).ReadString('\n')
	substituter, _, _ := strings.Cut(e.Settings["extra-substituters"].([]any)[0].(string), "?")
	if err != nil || ready != "extra-substituters = "+substituter+"\n" {
		_ = cmd.Wait()
		t.Errorf("%q: got %q, %v, want %s\n%s", args, ready, err, substituter, stderr.String())
		return
	}
	resp, err := http.Get(substituter + "/nix-cache-info")
	if err != nil {
		t.Error(err)
	} else {
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), "StoreDir: /nix/store\n") {
			t.Errorf("%q: got %q, %v", args, body, err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, stdout); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%q: %v\n%s", args, err, stderr.String())
	}
}
