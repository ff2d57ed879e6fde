package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy/blobs"
)

// serveExtra answers for the files of a binary cache that are neither narinfos
// nor NARs. As with NARs, what cannot be served is "not found": Nix fails on
// anything else.
func (s *Server) serveExtra(w http.ResponseWriter, r *http.Request, f bincache.File) {
	switch f.Kind {
	case bincache.Listing:
		e, _ := s.lookup(f.Name)
		s.serveDocument(w, r, reply.TypeJSON, e.Listing)
	case bincache.Log:
		s.serveDocument(w, r, reply.TypeText, s.buildLog(f.Name))
	case bincache.Realisation, bincache.BuildTrace:
		serveJSON(w, r, s.realisationJSON(f))
	case bincache.DebugInfo:
		serveJSON(w, r, s.debugInfo(f.Name))
	default:
		reply.NotFound(w)
	}
}

// serveJSON answers with a document in memory; "" is not found.
func serveJSON(w http.ResponseWriter, r *http.Request, text string) {
	if text == "" {
		reply.NotFound(w)
		return
	}
	reply.Text(w, r, reply.TypeJSON, text)
}

// recent returns an entry that was pushed just now and that match wants.
func (s *Server) recent(match func(*format.Entry) bool) (format.Entry, bool) {
	if s.pushed == nil {
		return format.Entry{}, false
	}
	return s.pushed.Find(match)
}

// buildLog is where the log of a derivation is; drv is its base name, with or
// without ".drv".
func (s *Server) buildLog(drv string) format.Location {
	drv = strings.TrimSuffix(drv, ".drv") + ".drv"
	if e, ok := s.recent(func(e *format.Entry) bool { return e.Deriver == drv && e.Log.Size > 0 }); ok {
		return e.Log
	}
	if snap := s.snapshot.Load(); snap != nil {
		e, _ := snap.LookupLog(drv)
		return e.Log
	}
	return format.Location{}
}

// realisation returns what the cache has under the name of r, and of which path.
func (s *Server) realisation(r format.Realisation) (found format.Realisation, e format.Entry, ok bool) {
	same := func(o format.Realisation) bool { return o.ID == r.ID && o.Drv == r.Drv && o.Output == r.Output }
	if e, ok = s.recent(func(e *format.Entry) bool { return slices.ContainsFunc(e.Realisations, same) }); ok {
		return e.Realisations[slices.IndexFunc(e.Realisations, same)], e, true
	}
	snap := s.snapshot.Load()
	switch {
	case snap == nil:
		return format.Realisation{}, format.Entry{}, false
	case r.ID != "":
		return snap.LookupRealisation(r.ID)
	}
	return snap.LookupBuildTrace(r.Drv, r.Output)
}

// realisationJSON is that of an output of a content-addressed derivation.
func (s *Server) realisationJSON(f bincache.File) string {
	r := format.RealisationOf(f)
	if r.Validate() != nil {
		return ""
	}
	found, e, ok := s.realisation(r)
	if !ok {
		return ""
	}
	return found.JSON(e.Path.Base())
}

const suffixDebug = ".debug"

// debugInfo says in which NAR the debug symbols for a build ID are, in the form
// that Nix writes with index-debug-info. Its own name for the file ends in
// ".debug"; debuggers' tools ask for it without.
func (s *Server) debugInfo(name string) string {
	id := strings.TrimSuffix(name, suffixDebug)
	if !format.ValidBuildID(id) {
		return ""
	}
	e, ok := s.recent(func(e *format.Entry) bool { return slices.Contains(e.BuildIDs, id) })
	if snap := s.snapshot.Load(); !ok && snap != nil {
		e, ok = snap.LookupBuildID(id)
	}
	if !ok {
		return ""
	}
	// none of it has a character that JSON would escape
	return fmt.Sprintf(`{"archive":"../%s","member":"lib/debug/.build-id/%s/%s.debug"}`, e.URL(), id[:2], id[2:])
}

// serveDocument answers with a listing or a log. The status waits for its
// first piece.
func (s *Server) serveDocument(w http.ResponseWriter, r *http.Request, contentType string, l format.Location) {
	if l.Size == 0 {
		reply.NotFound(w)
		return
	}
	begun, err := s.sendDocument(w, r, contentType, l)
	if err == nil {
		s.counts.documents.Add(1)
		return
	}
	if !begun {
		clear(w.Header())
		reply.NotFound(w)
	}
	if r.Context().Err() != nil || errors.As(err, new(*clientError)) {
		return
	}
	s.counts.documentFailures.Add(1)
	if !errors.Is(err, blobs.ErrUnwell) { // said once, by Health
		s.log.Warn("a listing or a log could not be served", "path", r.URL.Path, "blob", l.Blob.String(), "error", err)
	}
	if begun {
		// too late for a status: the cut must not look like the end
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) sendDocument(w http.ResponseWriter, r *http.Request, contentType string, l format.Location) (begun bool, err error) {
	frame, err := s.documents.Read(r.Context(), l)
	if err != nil {
		return false, err
	}
	doc, size, err := format.OpenDocument(frame)
	if err != nil {
		return false, err
	}
	defer doc.Close()
	buf := pieces.Get()
	defer pieces.Put(buf)
	rc := http.NewResponseController(w)
	for sent := int64(0); sent < size; {
		p := buf[:min(pieces.Size, size-sent)]
		if _, err := io.ReadFull(doc, p); err != nil {
			return begun, fmt.Errorf("decompressing a document: %w", err)
		}
		if !begun {
			h := w.Header()
			h.Set("Content-Type", contentType)
			h.Set("Content-Length", strconv.FormatInt(size, 10))
			h.Set("X-Content-Type-Options", "nosniff") // builders print what they like
			w.WriteHeader(http.StatusOK)
			begun = true
			if r.Method == http.MethodHead {
				return true, nil
			}
		}
		_ = rc.SetWriteDeadline(time.Now().Add(reply.Stall))
		n, err := w.Write(p)
		sent += int64(n)
		if err != nil {
			return true, &clientError{err}
		}
	}
	return begun, nil
}
