// Package reply has what handlers of the proxy say to clients in the same way.
//
// Nix gives up a build when a substituter answers with anything but what was
// asked for or a plain "not found", so NotFound is what most trouble becomes.
package reply

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Stall is how long a client may take no byte. Nix stops reading while it
// unpacks, and waits for locks meanwhile.
const Stall = 5 * time.Minute

// Types of what is sent, for Content-Type.
const (
	TypeCacheInfo = "text/x-nix-cache-info"
	TypeNarinfo   = "text/x-nix-narinfo"
	TypeNAR       = "application/x-nix-nar"
	TypeText      = "text/plain; charset=utf-8"
	TypeJSON      = "application/json"
)

// NotFound answers 404.
func NotFound(w http.ResponseWriter) { http.Error(w, "not found", http.StatusNotFound) }

// Refuse says "not found", and to somebody who wants to write that there is
// nothing to be written to. `nix copy --to` tries that after a "not found".
func Refuse(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		NotAllowed(w, r, http.MethodGet, http.MethodHead)
		return
	}
	NotFound(w)
}

// NotAllowed answers 405. To `nix copy --to`, which shows it, it says what would
// help.
func NotAllowed(w http.ResponseWriter, r *http.Request, allowed ...string) {
	text := "method not allowed"
	if r.Method == http.MethodPut {
		text = "this proxy takes nothing; one that is started with --allow-push and one --cache does"
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	http.Error(w, text, http.StatusMethodNotAllowed)
}

// Text answers with a text that is in memory.
func Text(w http.ResponseWriter, r *http.Request, contentType, text string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, text) // a client that went away needs no answer
	}
}

// JSON answers with a value for people and scripts.
func JSON(w http.ResponseWriter, r *http.Request, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	Text(w, r, TypeJSON, string(body)+"\n")
}

// PublicKeys answers with a cache's public keys: 404 if it has none, and 409 if
// there is none of them to trust, which nobody must take for the same.
func PublicKeys(w http.ResponseWriter, r *http.Request, keys []string, keyless bool) {
	if keyless {
		NotFound(w)
		return
	}
	if len(keys) == 0 {
		http.Error(w, "none of the cache's keys is to be trusted", http.StatusConflict)
		return
	}
	Text(w, r, TypeText, strings.Join(keys, "\n")+"\n")
}

// MayRefresh answers those who may not: a page in a browser on this machine
// must not make us ask the registry, nor should the network.
func MayRefresh(w http.ResponseWriter, r *http.Request) bool {
	if err := http.NewCrossOriginProtection().Check(r); err != nil || !FromLoopback(r) {
		http.Error(w, "refused: only for programs on this machine", http.StatusForbidden)
		return false
	}
	return true
}

// Refreshed answers a request to read anew, after that: 200, or 502 if it failed.
func Refreshed(w http.ResponseWriter, status any, err error) {
	body, jsonErr := json.MarshalIndent(status, "", "  ")
	if jsonErr != nil {
		err = jsonErr
	}
	w.Header().Set("Content-Type", TypeJSON)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
	}
	_, _ = w.Write(append(body, '\n'))
}

// FromLoopback reports whether a request comes from this machine.
func FromLoopback(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// Writer remembers whether an answer has been begun.
type Writer struct {
	http.ResponseWriter
	// Status is that of the answer, 0 before it is begun.
	Status int
}

// WriteHeader begins the answer.
func (w *Writer) WriteHeader(status int) {
	w.Status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *Writer) Write(p []byte) (int, error) {
	if w.Status == 0 {
		w.Status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Survive turns a bug into a "not found", which Nix can live with. Left alone,
// net/http would drop the connection, and that breaks a build. It is called by
// a deferred function, with what that has recovered.
func Survive(log *slog.Logger, w *Writer, r *http.Request, p any) {
	switch p {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(p)
	}
	log.Error("a request hit a bug in the proxy, please report it", "path", r.URL.Path, "panic", p)
	if w.Status == 0 {
		clear(w.Header())
		NotFound(w)
		return
	}
	// Too late for a status: net/http must not make the cut look like an end.
	panic(http.ErrAbortHandler)
}
