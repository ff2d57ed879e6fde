package proxytest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/org/nixoci-action/index/format"
)

// UpstreamCache is another binary cache.
type UpstreamCache struct {
	URL      string
	Requests atomic.Int64
}

// NewUpstreamCache calls answer for every request.
func NewUpstreamCache(tb testing.TB, answer http.HandlerFunc) *UpstreamCache {
	tb.Helper()
	u := &UpstreamCache{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.Requests.Add(1)
		answer(w, r)
	}))
	tb.Cleanup(srv.Close)
	u.URL = srv.URL
	return u
}

// NarinfoOf answers with narinfos.
func NarinfoOf(entries ...format.Entry) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, e := range entries {
			if strings.HasSuffix(r.URL.Path, "/"+e.Path.HashPart+".narinfo") {
				fmt.Fprint(w, e.Narinfo())
				return
			}
		}
		http.NotFound(w, r)
	}
}

// Hang never answers.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// Fail answers with a status.
func Fail(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "no", status)
	}
}
