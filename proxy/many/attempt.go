package many

import (
	"maps"
	"net/http"
)

// attempt is a ResponseWriter that keeps a "not found" to itself, so that
// somebody else can answer instead.
type attempt struct {
	w      http.ResponseWriter
	header http.Header
	begun  bool
	missed bool
}

// try lets h answer and reports whether it did.
func try(h http.Handler, w http.ResponseWriter, r *http.Request) bool {
	a := &attempt{w: w, header: http.Header{}}
	h.ServeHTTP(a, r)
	if !a.begun && !a.missed {
		a.WriteHeader(http.StatusOK)
	}
	return !a.missed
}

func (a *attempt) Header() http.Header { return a.header }

func (a *attempt) WriteHeader(status int) {
	switch {
	case a.missed:
	case !a.begun && status == http.StatusNotFound:
		a.missed = true
	default:
		if !a.begun {
			maps.Copy(a.w.Header(), a.header)
		}
		a.begun = status >= 200 // others are informational
		a.w.WriteHeader(status)
	}
}

func (a *attempt) Write(p []byte) (int, error) {
	if a.missed {
		return len(p), nil
	}
	if !a.begun {
		a.WriteHeader(http.StatusOK)
	}
	return a.w.Write(p)
}

// Unwrap is for http.ResponseController.
func (a *attempt) Unwrap() http.ResponseWriter { return a.w }
