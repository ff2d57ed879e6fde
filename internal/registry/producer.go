package registry

import (
	"errors"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
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

// patchError makes the refusal of an expired token, which ggcr's transport
// cannot repeat in the middle of a stream, a failure that is tried again.
func patchError(err error) error {
	var te *transport.Error
	if errors.As(err, &te) && te.StatusCode == http.StatusUnauthorized {
		return retryable{err}
	}
	return err
}

// retryable marks an error that a fresh stream may mend.
type retryable struct{ error }

func (e retryable) Unwrap() error { return e.error }
