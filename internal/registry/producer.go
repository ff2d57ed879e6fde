package registry

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// producer turns a function that writes into a reader.
type producer struct {
	*io.PipeReader
	done chan struct{}
}

// producerError is the failure of the function itself. Repeating the upload
// would not mend it.
type producerError struct{ err error }

func (e *producerError) Error() string { return e.err.Error() }
func (e *producerError) Unwrap() error { return e.err }

var errStopped = errors.New("the upload ended early")

func newProducer(write func(io.Writer) error) *producer {
	pr, pw := io.Pipe()
	p := &producer{PipeReader: pr, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := write(pw)
		if err != nil && !errors.Is(err, errStopped) {
			err = permanentError{&producerError{err}}
		}
		pw.CloseWithError(err)
	}()
	return p
}

// stop makes the function's next write fail and waits for it to return.
func (p *producer) stop() {
	p.CloseWithError(errStopped)
	<-p.done
}

// stream is a request's body that can be sent once, and is hashed meanwhile.
type stream struct {
	r    io.Reader
	sum  counting
	sent atomic.Bool // its request has been made
	done atomic.Bool // all of it has been read; only then may sum and failed be used
	// failed is the producer's failure. The request ends as if that were all:
	// a registry that had to wait for more would not forget what it has.
	failed error
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.sum.Write(p[:n])
	if errors.As(err, new(*producerError)) {
		s.failed, err = err, io.EOF
	}
	if errors.Is(err, io.EOF) {
		s.done.Store(true)
	}
	return n, err
}

func (s *stream) Close() error { return nil }

var (
	errSpent = retryable{errors.New("the registry asked for a new token in the middle of a stream")}
	errEarly = retryable{errors.New("the registry answered before it had everything")}
)

// fresh makes sure that a request begins with the start of its body. When a
// token has expired, ggcr's transport gets a new one and sends the same
// request again, with the body where the first try left it.
func fresh(req *http.Request) (*http.Request, error) {
	if s, ok := req.Body.(*stream); ok && s.sent.Swap(true) {
		return req, errSpent
	}
	if req.GetBody == nil {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return req, err
	}
	req = req.WithContext(req.Context()) // a copy: the caller's stays as it is
	req.Body = body
	return req, nil
}
