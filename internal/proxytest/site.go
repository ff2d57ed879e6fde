package proxytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/nix/nixtest"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/storepath"
)

// BuildLimit is how long a build may take at most, whatever the registry does.
const BuildLimit = time.Minute

// Site is a machine with Nix, and a registry that can be made to fail.
type Site struct {
	*testing.T
	Env      *nixtest.Env
	Registry *httptest.Server
	Fault    atomic.Pointer[registrytest.Fault]
	Repo     registry.Repository
}

// NewSite makes a site.
func NewSite(t *testing.T, env *nixtest.Env) *Site {
	s := &Site{T: t, Env: env}
	next := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s.Registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.Fault.Load(); f != nil {
			(*f)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.StopRegistry)
	s.Repo = OpenRepo(t, strings.TrimPrefix(s.Registry.URL, "http://")+"/a/b")
	return s
}

// StopRegistry ends the registry.
func (s *Site) StopRegistry() {
	s.Registry.CloseClientConnections()
	s.Registry.Close()
}

// Derivation is a derivation app, which refers to another one, lib.
type Derivation struct {
	Path     string
	App, Lib string // output paths
}

// Drv makes derivations whose paths depend on the name.
func (s *Site) Drv(name string) Derivation {
	s.Helper()
	mk := `let mk = n: more: derivation ({ name = n; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo built $lib > $out" ]; } // more);
		lib = mk "%[1]s-lib" { }; app = mk "%[1]s-app" { inherit lib; }; in `
	expr := fmt.Sprintf(mk, name)
	lib := s.Env.Run(s, s.Env.Dir, "nix-instantiate", "--expr", expr+"lib")
	app := s.Env.Run(s, s.Env.Dir, "nix-instantiate", "--expr", expr+"app")
	return Derivation{
		Path: app,
		App:  s.Env.Run(s, s.Env.Dir, "nix-store", "--query", "--outputs", app),
		Lib:  s.Env.Run(s, s.Env.Dir, "nix-store", "--query", "--outputs", lib),
	}
}

// Publish publishes NARs of d's outputs without building them. The one of app
// is larger than what the proxy holds in hand.
func (s *Site) Publish(d Derivation) {
	s.Helper()
	lib := s.Entry(d.Lib, []byte("substituted\n"))
	app := s.Entry(d.App, append([]byte("substituted "+d.Lib+"\n"), RandomBytes(40, 1<<20)...), filepath.Base(d.Lib))
	Publish(s, s.Repo, format.Config{StoreDir: s.Env.Store}, lib, app)
}

// Entry uploads the NAR of a file.
func (s *Site) Entry(path string, content []byte, refs ...string) format.Entry {
	s.Helper()
	file := filepath.Join(s.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		s.Fatal(err)
	}
	nar := []byte(s.Env.Run(s, s.Env.Dir, "nix-store", "--dump", file) + "\n")
	nar = nar[:len(nar)-1]
	PutBlob(s, s.Repo, nar)
	p, err := storepath.Parse(path)
	if err != nil {
		s.Fatal(err)
	}
	sum := sha256.Sum256(nar)
	return format.Entry{
		Path: p, NarHash: bincache.FormatHash(sum[:]), NarSize: int64(len(nar)), References: refs, Compression: bincache.CompressionNone,
		FileHash: bincache.FormatHash(sum[:]),
		NAR:      format.Location{Blob: DigestOf(nar), BlobSize: int64(len(nar)), Size: int64(len(nar))},
	}
}

// Nix runs a Nix command that uses substituters, with the settings that an
// ordinary user has.
func (s *Site) Nix(substituters, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), BuildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Env.Program(s, name), args...)
	cmd.Dir = s.Env.Dir
	for _, v := range s.Env.Vars {
		if strings.HasPrefix(v, "NIX_CONFIG=") {
			v += "experimental-features = nix-command\ndownload-attempts = 5\nrequire-sigs = false\nsubstituters = " + substituters + "\n"
		}
		cmd.Env = append(cmd.Env, v)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("it took longer than %s", BuildLimit)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", name, err, stderr.String())
	}
	return string(out), err
}

// Build realises d and tells whether app was built or substituted.
func (s *Site) Build(d Derivation, substituters ...string) string {
	s.Helper()
	begin := time.Now()
	if _, err := s.Nix(strings.Join(substituters, " "), "nix-store", "--realise", d.Path); err != nil {
		s.Fatalf("the build broke: %v", err)
	}
	s.Logf("the build took %s", time.Since(begin).Round(time.Millisecond))
	content, err := os.ReadFile(d.App)
	if err != nil {
		s.Fatal(err)
	}
	word, _, _ := strings.Cut(string(content), " ")
	return word
}

// blobsOnly confines a fault to the reading of blobs.
func blobsOnly(f registrytest.Fault) registrytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			f(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

func answering(status int) registrytest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { Fail(status)(w, nil) }
}

// sending lets the registry answer, and hands the body to send.
func sending(send func(w io.Writer, r *http.Request, body []byte)) registrytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.WriteHeader(rec.Code)
		send(w, r, rec.Body.Bytes())
	}
}

func cutAfter(n int) registrytest.Fault {
	return sending(func(w io.Writer, _ *http.Request, body []byte) {
		_, _ = w.Write(body[:min(n, len(body))])
		if len(body) > n {
			panic(http.ErrAbortHandler)
		}
	})
}

// RegistryFaults is what a registry may do, and what comes of it.
var RegistryFaults = []struct {
	Name  string
	Fault registrytest.Fault
	Want  string
}{
	{"fine", nil, "substituted"},
	{"500", answering(500), "built"},
	{"503", answering(503), "built"},
	{"429", answering(429), "built"},
	{"400", answering(400), "built"},
	{"401", answering(401), "built"},
	{"blobs lost", blobsOnly(answering(404)), "built"},
	{"access lost", blobsOnly(answering(403)), "built"},
	{"hangs", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }, "built"},
	{"hangs after the headers", blobsOnly(sending(func(w io.Writer, r *http.Request, _ []byte) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})), "built"},
	{"hangs half way", blobsOnly(sending(func(w io.Writer, r *http.Request, body []byte) {
		if len(body) < pieces.Size {
			_, _ = w.Write(body) // lib; app is on its way when it stops
			return
		}
		_, _ = w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})), "built"},
	{"drops connections", func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }, "built"},
	{"cuts off again and again", blobsOnly(cutAfter(200_000)), "substituted"},
	{"cuts off and is gone", blobsOnly(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			cutAfter(500_000)(w, r, next)
			return
		}
		answering(500)(w, r, next)
	}), "built"},
	{"other bytes", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		body[len(body)-1] ^= 1
		_, _ = w.Write(body)
	})), "built"},
	{"other bytes at the end of a large NAR", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		if len(body) > pieces.Size {
			body[len(body)-100] ^= 1
		}
		_, _ = w.Write(body)
	})), "built"},
	{"slow", blobsOnly(sending(func(w io.Writer, _ *http.Request, body []byte) {
		for len(body) > 0 {
			n := min(len(body), 50_000)
			_, _ = w.Write(body[:n])
			w.(http.Flusher).Flush()
			body = body[n:]
			time.Sleep(50 * time.Millisecond)
		}
	})), "substituted"},
}
