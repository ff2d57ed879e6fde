package httpd

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// writeTimeout is how long a client may take for an answer from here.
const writeTimeout = time.Minute

// Paths that are answered here.
const (
	// PathHealth is 200 as long as the process lives.
	PathHealth = "/healthz"
	// PathReady is 200 while requests are served, else 503: before Ready, and
	// when the server is about to end.
	PathReady = "/readyz"
	// PathMetrics has the metrics.
	PathMetrics = "/metrics"
)

func (s *Server) handler() http.Handler {
	var h http.Handler = http.HandlerFunc(s.route)
	if s.opts.AccessLog != nil {
		h = s.opts.AccessLog.wrap(h)
	}
	return h
}

func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	// A handler that takes longer, or sends more, sets it anew.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	defer bound(w, r)()
	switch {
	case r.URL.Path == PathHealth:
		answer(w, http.StatusOK, "ok\n")
	case r.URL.Path == PathReady:
		s.serveReady(w)
	case s.foreign(r):
		answer(w, http.StatusForbidden, "refused under the name "+strconv.Quote(r.Host)+
			": ask by an address, or start the proxy with --host and that name\n")
	case r.URL.Path == PathMetrics && s.opts.Metrics != nil:
		s.opts.Metrics.ServeHTTP(w, r)
	default:
		select { // a client that comes early waits instead of being refused
		case <-s.ready:
			s.opts.Handler.ServeHTTP(w, r)
			return
		default:
		}
		select {
		case <-s.ready:
			s.opts.Handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		case <-s.stopping:
			panic(http.ErrAbortHandler) // no answer is true
		}
	}
}

func (s *Server) serveReady(w http.ResponseWriter) {
	select {
	case <-s.stopping:
		answer(w, http.StatusServiceUnavailable, "stopping\n")
		return
	default:
	}
	select {
	case <-s.ready:
		answer(w, http.StatusOK, "ready\n")
	default:
		answer(w, http.StatusServiceUnavailable, "starting\n")
	}
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // net/http drops it for HEAD
}
