package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/pieces"
	"github.com/org/nixoci-action/internal/reply"
	"github.com/org/nixoci-action/proxy/blobs"
)

// errDamaged is blobs.ErrCorrupt where the copy on disk was it.
var errDamaged = errors.New("the NAR on disk did not have its hash")

// reader delivers a NAR piece by piece.
type reader interface {
	// Fill reads the next len(p) bytes, within limit.
	Fill(p []byte, limit time.Duration) error
	Close()
}

// memory is a reader of what is there already.
type memory []byte

func (m *memory) Fill(p []byte, _ time.Duration) error {
	*m = (*m)[copy(p, *m):]
	return nil
}

func (m *memory) Close() {}

// serveNAR answers a request for a NAR.
//
// Nix takes 404 well. What it does not take is a server error, or a body that
// breaks off for good. So the status waits for the first piece, a transfer
// that the registry cuts off is resumed here, and what cannot be completed is
// 404 when Nix comes back for the rest.
func (s *Server) serveNAR(w http.ResponseWriter, r *http.Request, f bincache.File) {
	fileHash := f.Name
	e, ok := s.lookupNAR(fileHash)
	if !ok || e.File() != f || s.corrupt.Has(fileHash) {
		reply.NotFound(w)
		return
	}
	if r.Method == http.MethodGet && r.Header.Get("Range") != "" && s.torn.Has(fileHash) {
		reply.NotFound(w) // what it continues may be damaged
		return
	}
	if s.redirect(w, r, e) {
		return
	}
	part := whole(e.NAR.Size)
	if r.Method == http.MethodGet && r.Header.Get("If-Range") == "" { // there is no validator that could match
		var ok bool
		if part, ok = parseRange(r.Header.Get("Range"), e.NAR.Size); !ok {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", e.NAR.Size))
			http.Error(w, "range not satisfiable", http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", reply.TypeNAR)
	h.Set("Accept-Ranges", "bytes") // else Nix does not resume
	h.Set("Content-Length", strconv.FormatInt(part.length, 10))
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.start, part.start+part.length-1, e.NAR.Size))
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	begun := false
	begin := func() { begun = true; w.WriteHeader(status) }
	n, err := s.sendNAR(r.Context(), w, e, part, begin)
	if errors.Is(err, blobs.ErrCorrupt) && blobs.Drop(s.opts.Blobs, e.NAR.Blob) {
		// It was the copy on our disk, so only who has got some of it is
		// harmed. Nix would ask for the rest, get it, and fail for good.
		s.log.Warn("a damaged file was removed from the NAR cache", "path", e.Path.String(), "blob", e.NAR.Blob.String())
		if begun {
			s.torn.Add(fileHash)
			err = errDamaged
		} else {
			n, err = s.sendNAR(r.Context(), w, e, part, begin)
		}
	}
	s.counts.narBytes.Add(n)
	switch {
	case err == nil:
		s.counts.nars.Add(1)
	case begun:
		// Fewer bytes than announced: net/http closes the connection.
		s.narFailed(r.Context(), e, err)
	default:
		clear(h)
		reply.NotFound(w)
		s.narFailed(r.Context(), e, err)
	}
}

func (s *Server) lookupNAR(fileHash string) (format.Entry, bool) {
	if s.pushed != nil {
		if e, ok := s.pushed.LookupNAR(fileHash); ok {
			return e, true
		}
	}
	if snap := s.snapshot.Load(); snap != nil {
		return snap.LookupNAR(fileHash)
	}
	return format.Entry{}, false
}

// sendNAR sends a part of e's NAR. It calls begin when the first bytes are in
// hand, and returns how many it has sent.
func (s *Server) sendNAR(ctx context.Context, w http.ResponseWriter, e format.Entry, part byteRange, begin func()) (int64, error) {
	src, asked, err := s.open(ctx, e.NAR, part)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	var sum hash.Hash
	if part.length == e.NAR.Size { // who asks for a part checks the whole himself
		sum = sha256.New()
	}
	buf := pieces.Get()
	defer pieces.Put(buf)
	rc := http.NewResponseController(w)
	limit := s.opts.FirstByte
	for sent := int64(0); sent < part.length; {
		p := buf[:min(pieces.Size, part.length-sent)]
		if err := src.Fill(p, limit); err != nil {
			if asked {
				s.registry.Note(ctx, err)
			}
			return sent, err
		}
		if sent == 0 && asked {
			s.registry.Note(ctx, nil)
		}
		last := sent+int64(len(p)) == part.length
		if sum != nil {
			sum.Write(p)
			// before the last piece goes out: a wrong NAR never looks complete
			if last && bincache.FormatHash(sum.Sum(nil)) != e.FileHash {
				return sent, blobs.ErrCorrupt
			}
		}
		if sent == 0 {
			begin()
			limit = s.opts.Stall
		}
		_ = rc.SetWriteDeadline(time.Now().Add(reply.Stall))
		n, err := w.Write(p)
		sent += int64(n)
		if err != nil {
			return sent, &clientError{err}
		}
	}
	return part.length, nil
}

// clientError is a failure on the client's side.
type clientError struct{ error }

// open begins to read a part of a NAR, from memory or from the registry. asked
// tells whether what the reader does says something about the registry.
func (s *Server) open(ctx context.Context, l format.Location, part byteRange) (src reader, asked bool, err error) {
	if nar, ok := s.packs.NAR(ctx, l, !s.registry.Open()); ok {
		m := memory(nar[part.start : part.start+part.length])
		return &m, false, nil
	}
	local := blobs.Holds(s.opts.Blobs, l.Blob)
	if !local && !s.registry.Allow() {
		return nil, false, blobs.ErrUnwell
	}
	return blobs.Read(ctx, blobs.Sized(s.opts.Blobs, l.BlobSize), l.Blob, l.Offset+part.start, part.length), !local, nil
}

func (s *Server) narFailed(ctx context.Context, e format.Entry, err error) {
	if ctx.Err() != nil || errors.As(err, new(*clientError)) {
		return
	}
	s.counts.narFailures.Add(1)
	if errors.Is(err, blobs.ErrUnwell) {
		return // said once, by Health
	}
	if errors.Is(err, blobs.ErrCorrupt) {
		// Nix would ask for the rest, get it, and fail for good.
		s.corrupt.Add(bincache.HashDigits(e.FileHash))
	}
	s.log.Warn("a NAR could not be served", "path", e.Path.String(), "blob", e.NAR.Blob.String(), "error", err)
}
