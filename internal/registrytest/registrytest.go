// Package registrytest runs registries for tests: distribution as a process,
// go-containerregistry's in this one. All of them listen on loopback only.
package registrytest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
)

// GGCR starts go-containerregistry's registry and returns its address,
// "127.0.0.1:PORT". It is laxer than others: it takes manifests whose blobs
// are missing.
func GGCR(tb testing.TB) string {
	tb.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	tb.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Distribution is a running docker-registry.
type Distribution struct {
	// Addr is "127.0.0.1:PORT".
	Addr string
	// Dir is where it stores everything.
	Dir string

	config string
	cmd    *exec.Cmd
	log    bytes.Buffer
}

const program = "docker-registry"

// NewDistribution starts distribution with an empty storage folder; it deletes
// what it is asked to. Without the program the test is skipped; in CI it fails.
func NewDistribution(tb testing.TB) *Distribution {
	tb.Helper()
	return newDistribution(tb, true, "")
}

// NewUndeleting starts a distribution that deletes nothing, which is its
// default.
func NewUndeleting(tb testing.TB) *Distribution {
	tb.Helper()
	return newDistribution(tb, false, "")
}

// The login of a distribution that NewLocked started.
const (
	LockedUser     = "gitlab-ci-token"
	LockedPassword = "ci-registry-passw0rd"
	// lockedEntry is both as htpasswd has them.
	lockedEntry = LockedUser + ":$2b$04$o3ZqSn9cu01KKV4aVa8Y/.mAxXGX7/QDslZY9DZbDko9WWa9lv0NW\n"
)

// Locked is that login as a keychain.
type Locked struct{}

// Resolve gives the login, whatever the registry.
func (Locked) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: LockedUser, Password: LockedPassword}), nil
}

// NewLocked starts a distribution with basic authentication.
func NewLocked(tb testing.TB) *Distribution {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte(lockedEntry), 0o600); err != nil {
		tb.Fatal(err)
	}
	return newDistribution(tb, true, fmt.Sprintf("auth:\n  htpasswd: {realm: test, path: %q}\n", file))
}

// newDistribution adds lines to the configuration.
func newDistribution(tb testing.TB, deletes bool, more string) *Distribution {
	tb.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(tb, program+" is not installed (on Debian: apt-get install docker-registry)")
	}
	d := &Distribution{Dir: tb.TempDir()}
	d.Addr = freeAddr(tb)
	d.config = filepath.Join(tb.TempDir(), "config.yml")
	conf := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: %t}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: %s}
%s`, d.Dir, deletes, d.Addr, more)
	if err := os.WriteFile(d.config, []byte(conf), 0o600); err != nil {
		tb.Fatal(err)
	}
	d.Start(tb)
	tb.Cleanup(func() {
		d.Stop()
		if tb.Failed() {
			tb.Logf("the registry's log:\n%s", d.log.String())
		}
	})
	return d
}

// Missing ends a test that needs what this machine has not: a failure in CI, a
// skip elsewhere.
func Missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts it again after Stop, at the same address.
func (d *Distribution) Start(tb testing.TB) {
	tb.Helper()
	d.cmd = exec.Command(program, "serve", d.config)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get("http://" + d.Addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			d.Stop()
			tb.Fatalf("the registry does not answer: %v\n%s", err, d.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Stop ends the process. It may be called again.
func (d *Distribution) Stop() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
}

// Collect runs distribution's garbage collector, untagged manifests included,
// while the registry is stopped, and returns what it printed.
func (d *Distribution) Collect(tb testing.TB) string {
	tb.Helper()
	d.Stop()
	out := d.CollectBeside(tb, true)
	d.Start(tb)
	return out
}

// CollectBeside runs the garbage collector while the registry goes on; nobody
// may write meanwhile. Manifests that merely lost their tags go only if
// untagged is true.
func (d *Distribution) CollectBeside(tb testing.TB, untagged bool) string {
	tb.Helper()
	args := []string{"garbage-collect", d.config}
	if untagged {
		args = append(args, "-m")
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("collecting garbage: %v\n%s", err, out)
	}
	return string(out)
}

// Size is the number of bytes in the storage folder.
func (d *Distribution) Size(tb testing.TB) int64 {
	tb.Helper()
	return FolderSize(tb, d.Dir)
}

// FolderSize is the number of bytes in the files below a folder.
func FolderSize(tb testing.TB, dir string) int64 {
	tb.Helper()
	var n int64
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}
