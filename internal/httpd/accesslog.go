package httpd

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// maxLogged is how much of a text from a client is logged, in bytes.
const maxLogged = 512

// AccessLog writes a line of JSON for each request: when it ended, from where,
// method, path, status, bytes and seconds. There are no queries and no headers
// but the user agent in it, since those may carry secrets.
type AccessLog struct {
	log  *slog.Logger
	warn *slog.Logger

	name string // of the file; empty if it is none
	mu   sync.Mutex
	w    io.Writer
	bad  bool // the last line was lost
}

// NewAccessLog logs to w, with attrs in every line.
func NewAccessLog(w io.Writer, attrs ...slog.Attr) *AccessLog {
	a := &AccessLog{w: w, warn: slog.New(slog.DiscardHandler)}
	a.log = slog.New(slog.NewJSONHandler(a, &slog.HandlerOptions{ReplaceAttr: plain}).WithAttrs(attrs))
	return a
}

// OpenAccessLog is NewAccessLog for a file, to which it appends. Lines that
// cannot be written are lost; warn is told when that begins.
func OpenAccessLog(name string, warn *slog.Logger, attrs ...slog.Attr) (*AccessLog, error) {
	a := NewAccessLog(nil, attrs...)
	a.name, a.warn = name, warn
	return a, a.Reopen()
}

// plain leaves out what is the same in every line.
func plain(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
		return slog.Attr{}
	}
	return a
}

// Reopen opens the file again, after something has moved it away. If that
// fails the old one is still written to.
func (a *AccessLog) Reopen() error {
	if a.name == "" {
		return nil
	}
	f, err := os.OpenFile(a.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640) //nolint:gosec // readable by those who rotate and ship logs
	if err != nil {
		return fmt.Errorf("opening the access log: %w", err)
	}
	a.mu.Lock()
	old := a.w
	a.w = f
	a.mu.Unlock()
	if old, ok := old.(*os.File); ok {
		old.Close()
	}
	return nil
}

// Close closes the file, if there is one. A may be nil.
func (a *AccessLog) Close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, ok := a.w.(*os.File); ok && a.name != "" {
		return f.Close()
	}
	return nil
}

// Write is for the log's own handler.
func (a *AccessLog) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.w.Write(line)
	if err != nil && !a.bad {
		a.warn.Warn("the access log cannot be written; lines are lost until it can", "error", err)
	}
	a.bad = err != nil
	return n, err
}

func (a *AccessLog) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() { // also when the answer is cut off by a panic
			a.record(r, rec, began)
		}()
		next.ServeHTTP(rec, r)
	})
}

func (a *AccessLog) record(r *http.Request, rec *recorder, began time.Time) {
	if r.Method == http.MethodHead {
		rec.bytes = 0 // net/http has dropped them
	}
	attrs := []slog.Attr{
		slog.String("method", short(r.Method)),
		slog.String("path", short(r.URL.Path)),
		slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes),
		slog.Float64("seconds", time.Since(began).Seconds()),
		slog.String("agent", short(r.UserAgent())),
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		attrs = append(attrs, slog.String("client", host))
	}
	a.log.LogAttrs(r.Context(), slog.LevelInfo, "", attrs...)
}

func short(s string) string { return s[:min(len(s), maxLogged)] }

// recorder remembers what was answered. The status is 0 if nothing was.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if status >= http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
