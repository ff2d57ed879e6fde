package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/org/nixoci-action/internal/pieces"
)

const (
	// smallNAR is the size in bytes below which a compressed NAR is held in
	// memory, to be stored with others.
	smallNAR = 256 << 10
	// memorySize bounds what is held in memory, in bytes; what does not fit is
	// treated as if it were not small.
	memorySize = 48 << 20
	// spoolSize bounds the temporary files of NARs that are being received.
	spoolSize = 16 << 30
	// spoolWait is how long a NAR waits for room among them.
	spoolWait = 2 * time.Minute
)

// spools hold what is received until it has been checked: it can be read again,
// while a request cannot.
type spools struct {
	dir          string
	memory, disk *semaphore.Weighted
}

func newSpools(dir string) *spools {
	return &spools{dir: dir, memory: semaphore.NewWeighted(memorySize), disk: semaphore.NewWeighted(spoolSize)}
}

// spool is one NAR, in memory or in a file without a name.
type spool struct {
	data    []byte
	file    *os.File
	size    int64
	release func()
}

// close frees what the spool holds. It may be called more than once.
func (s *spool) close() {
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

func (s *spool) reader() io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.data)
	}
	return io.NewSectionReader(s.file, 0, s.size)
}

// take makes room for size bytes.
func (s *spools) take(ctx context.Context, size int64) (*spool, error) {
	if size < smallNAR && s.memory.TryAcquire(size) {
		return &spool{data: make([]byte, 0, size), size: size, release: func() { s.memory.Release(size) }}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, spoolWait)
	defer cancel()
	if err := s.disk.Acquire(ctx, size); err != nil {
		return nil, &refusal{http.StatusServiceUnavailable, "too many NARs are being pushed at once, try again"}
	}
	f, err := s.create()
	if err != nil {
		s.disk.Release(size)
		return nil, err
	}
	return &spool{file: f, size: size, release: func() { s.disk.Release(size) }}, nil
}

// create makes a file that is gone when it is closed, however that comes about.
func (s *spools) create() (*os.File, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making room for a NAR: %w", err)
	}
	f, err := os.CreateTemp(s.dir, "push-*")
	if err != nil {
		return nil, fmt.Errorf("making room for a NAR: %w", err)
	}
	return f, os.Remove(f.Name())
}

func (s *spool) Write(p []byte) (int, error) {
	if s.file != nil {
		n, err := s.file.Write(p)
		if err != nil {
			err = &refusal{http.StatusInsufficientStorage, fmt.Sprintf("the proxy cannot keep the NAR: %v", err)}
		}
		return n, err
	}
	s.data = append(s.data, p...)
	return len(p), nil
}

// receive reads a request's body, which must have the announced length, into w.
// The server bounds how long that takes.
func receive(w io.Writer, r *http.Request) error {
	buf := pieces.Get()
	defer pieces.Put(buf)
	for left := r.ContentLength; ; {
		n, err := r.Body.Read(buf[:])
		left -= int64(n)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		switch {
		case errors.Is(err, io.EOF) && left == 0:
			return nil
		case err != nil || left < 0:
			return &refusal{http.StatusBadRequest, "the request's body broke off"}
		}
	}
}
