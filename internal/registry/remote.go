package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/org/nixoci-action/internal/stall"
)

// remote is a repository behind the OCI distribution protocol. Requests go
// through ggcr's transport for authentication and our limiter for pauses; the
// uploads are our own, because ggcr needs four requests for a small blob.
type remote struct {
	repo  name.Repository
	opts  Options
	limit *limiter
	retry retryPolicy
	small int // blobs up to this many bytes go up in one PUT
	chunk int // size of the pieces where streams are refused

	deletePatience time.Duration

	session  *session    // for everything but deleting
	deleting *session    // registries have a right of its own for it
	chunked  atomic.Bool // this registry refuses streams
	known    atomic.Bool // there is a login for it
	packages *packages   // of ghcr.io; nil elsewhere
}

var _ Repository = (*remote)(nil)

// stallTimeout is how long a registry may keep us waiting.
const stallTimeout = 60 * time.Second

// bufferSize is how much of a blob is held in memory before it is streamed.
const bufferSize = 8 << 20

func newRemote(repo name.Repository, o Options) *remote {
	next := o.Transport
	if next == nil {
		next = NewTransport(false)
	}
	r := &remote{
		repo: repo, opts: o, retry: defaultRetry, small: bufferSize, chunk: chunkSize, deletePatience: deletePatience,
		limit: &limiter{next: &stall.Guard{Next: next, Limit: stallTimeout}, log: o.Logger},
	}
	r.session, r.deleting = newSession(transport.PullScope), newSession(transport.DeleteScope, transport.PushScope)
	if o.Push {
		r.session = newSession(transport.PushScope)
	}
	if repo.RegistryStr() == ghcrHost {
		r.limit.rate = ghcrRate()
	}
	if host := cmp.Or(o.ghcr, ghcrHost); repo.RegistryStr() == host {
		r.packages = newPackages(r)
	}
	return r
}

func (r *remote) String() string {
	if plain, err := name.NewRegistry(r.repo.RegistryStr()); err == nil && plain.Scheme() != r.repo.Scheme() {
		return plainScheme + r.repo.Name()
	}
	return r.repo.Name()
}

// Requests returns how many HTTP requests have been sent so far.
func (r *remote) Requests() int64 { return r.limit.requests.Load() }

// checkRedirect follows redirects of reads, to the registry's storage; an
// upload must not turn into a GET.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if req.Method != via[0].Method {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("too many redirects")
	}
	return nil
}

// request is one HTTP request to the repository, with at most one body.
type request struct {
	method string
	url    *url.URL
	header http.Header
	data   []byte
	stream *stream
	accept []int
	delete bool // with the right to delete
	stay   bool // take a redirect as the answer
}

// send makes one try. The caller closes the response's body.
func (r *remote) send(ctx context.Context, q request) (*http.Response, error) {
	session := r.session
	if q.delete {
		session = r.deleting
	}
	login, err := r.connect(ctx, session)
	if err != nil {
		return nil, present(err)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), bytes.NewReader(q.data))
	if err != nil {
		return nil, permanentError{err}
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	if q.stream != nil {
		req.Body, req.GetBody, req.ContentLength = q.stream, nil, -1
	}
	client := login.Client
	if q.stay {
		client = &http.Client{Transport: client.Transport, CheckRedirect: stay}
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, present(err)
	}
	r.opts.Logger.Debug("registry request", "method", q.method, "path", q.url.Path, "status", resp.StatusCode, "took", time.Since(start).Round(time.Microsecond))
	if err := transport.CheckError(resp, q.accept...); err != nil {
		resp.Body.Close()
		switch {
		case resp.StatusCode != http.StatusUnauthorized:
			login.worked.Store(true)
		case session.expired(login):
			err = retryable{err}
		}
		return nil, present(err)
	}
	login.worked.Store(true)
	return resp, nil
}

// call sends a request, repeating it as needed, and hands the answer to read.
func (r *remote) call(ctx context.Context, q request, read func(*http.Response) error) error {
	err := r.retry.do(ctx, r.opts.Logger, q.method+" "+q.url.Path, func() error {
		resp, err := r.send(ctx, q)
		if err != nil {
			return err
		}
		defer drain(resp.Body)
		if read == nil {
			return nil
		}
		return read(resp)
	})
	return r.describe(ctx, err)
}

// drain leaves the connection fit for the next request.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}

// readBounded reads an answer of at most limit bytes.
func readBounded(body io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = permanentError{fmt.Errorf("the answer is longer than %d bytes", limit)}
	}
	return b, err
}

// endpoint is a URL below the repository.
func (r *remote) endpoint(elem ...string) *url.URL {
	return &url.URL{
		Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(),
		Path: "/v2/" + r.repo.RepositoryStr() + "/" + strings.Join(elem, "/"),
	}
}
