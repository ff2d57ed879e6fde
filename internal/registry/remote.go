package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/internal/hint"
)

// remote is a repository behind the OCI distribution protocol. Requests go
// through ggcr's transport for authentication and our limiter for pauses; the
// uploads are our own, because ggcr needs four requests for a small blob.
type remote struct {
	repo  name.Repository
	opts  Options
	limit *limiter
	retry retryPolicy
	stall time.Duration
	small int // blobs up to this many bytes go up in one PUT

	mu     sync.Mutex
	client *http.Client // nil until the first handshake succeeds
}

var _ Repository = (*remote)(nil)

// bufferSize is how much of a blob is held in memory before it is streamed.
const bufferSize = 8 << 20

// connections that stay open between transfers; uploads and index reads of
// one run share them.
const idleConnections = 64

func newRemote(repo name.Repository, o Options) *remote {
	next := o.Transport
	if next == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = idleConnections
		t.DisableCompression = true // bodies are digests' subjects
		t.ResponseHeaderTimeout = stallTimeout
		t.WriteBufferSize = 64 << 10
		t.ReadBufferSize = 64 << 10
		next = t
	}
	r := &remote{repo: repo, opts: o, retry: defaultRetry, stall: stallTimeout, small: bufferSize, limit: &limiter{next: next}}
	if repo.RegistryStr() == ghcrHost {
		r.limit.rate = ghcrRate()
	}
	return r
}

func (r *remote) String() string { return r.repo.Name() }

// Requests returns how many HTTP requests have been sent so far.
func (r *remote) Requests() int64 { return r.limit.requests.Load() }

// connect makes the handshake: one ping, and a token where one is asked for.
func (r *remote) connect(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	auth := authn.Anonymous
	if r.opts.Keychain != nil {
		var err error
		if auth, err = authn.Resolve(ctx, r.opts.Keychain, r.repo); err != nil {
			return nil, permanentError{fmt.Errorf("reading the registry's credentials: %w", err)}
		}
	}
	scope := transport.PullScope
	if r.opts.Push {
		scope = transport.PushScope
	}
	ctx, w := watch(ctx, r.stall)
	defer w.end()
	t, err := transport.NewWithContext(ctx, r.repo.Registry, auth, transport.NewUserAgent(r.limit, r.opts.UserAgent), []string{r.repo.Scope(scope)})
	if err != nil {
		return nil, explain(ctx, err)
	}
	r.client = &http.Client{Transport: t}
	return r.client, nil
}

// request is one HTTP request to the repository.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   io.Reader
	length int64 // of body; -1 streams it
	accept []int
}

// send makes one try. The caller closes the response's body and has ended w by
// then; while it reads a long body it feeds w.
func (r *remote) send(ctx context.Context, q request) (*http.Response, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), q.body)
	if err != nil {
		return nil, permanentError{err}
	}
	if q.header != nil {
		req.Header = q.header
	}
	if q.body != nil {
		req.ContentLength = q.length
	}
	start := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	r.opts.Logger.Debug("registry request", "method", q.method, "path", q.url.Path, "status", resp.StatusCode, "took", time.Since(start).Round(time.Microsecond))
	if err := transport.CheckError(resp, q.accept...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// call sends a request without a long body, repeating it as needed, and hands
// the answer to read.
func (r *remote) call(ctx context.Context, q func() request, read func(*http.Response) error) error {
	first := q()
	err := r.retry.do(ctx, r.opts.Logger, first.method+" "+first.url.Path, func() error {
		ctx, w := watch(ctx, r.stall)
		defer w.end()
		resp, err := r.send(ctx, q())
		if err != nil {
			return explain(ctx, err)
		}
		defer drain(resp.Body)
		if read == nil {
			return nil
		}
		resp.Body = struct {
			io.Reader
			io.Closer
		}{feeding{resp.Body, w}, resp.Body}
		return explain(ctx, read(resp))
	})
	return r.describe(err)
}

// drain leaves the connection fit for the next request.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}

// describe names the side that failed, marks absence, and adds what the user
// can do about a refusal.
func (r *remote) describe(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	wrapped := fmt.Errorf("registry %s: %w", r.repo.RegistryStr(), err)
	var te *transport.Error
	if !errors.As(err, &te) {
		return wrapped
	}
	switch te.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("registry %s: %w: %w", r.repo.RegistryStr(), ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return hint.Wrap(wrapped, r.permissionHint())
	case http.StatusTooManyRequests:
		return hint.Wrap(wrapped, "the registry limits requests; try again later, or with fewer --jobs")
	}
	return wrapped
}

func (r *remote) permissionHint() string {
	switch {
	case r.repo.RegistryStr() != ghcrHost:
		return "log in with `docker login " + r.repo.RegistryStr() + "` (or podman, or crane), and check that the account may use " + r.repo.RepositoryStr()
	case r.opts.Push:
		return "does the job have `permissions: packages: write`, is GITHUB_TOKEN in the step's environment, and does the package (if it exists) give this repository write access?"
	}
	return "is the package public? If not, GITHUB_TOKEN needs read access to packages, or use `docker login ghcr.io`"
}

// endpoint is a URL below the repository.
func (r *remote) endpoint(elem ...string) *url.URL {
	return &url.URL{
		Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(),
		Path: "/v2/" + r.repo.RepositoryStr() + "/" + strings.Join(elem, "/"),
	}
}

var manifestTypes = strings.Join([]string{string(types.OCIManifestSchema1), string(types.DockerManifestSchema2), string(types.OCIImageIndex)}, ", ")

func (r *remote) Manifest(ctx context.Context, ref string) (Manifest, error) {
	var m Manifest
	q := func() request {
		return request{method: http.MethodGet, url: r.endpoint("manifests", ref), header: http.Header{"Accept": {manifestTypes}}, accept: []int{http.StatusOK}}
	}
	err := r.call(ctx, q, func(resp *http.Response) error {
		raw, err := readBounded(resp.Body, MaxManifestSize)
		if err != nil {
			return err
		}
		digest, _, err := v1.SHA256(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		if want, err := v1.NewHash(ref); err == nil && want != digest {
			return fmt.Errorf("manifest %s has the digest %s", want, digest)
		}
		m = Manifest{MediaType: resp.Header.Get("Content-Type"), Digest: digest, Raw: raw}
		return nil
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("reading manifest %s: %w", ref, err)
	}
	return m, nil
}

func readBounded(body io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = permanentError{fmt.Errorf("the registry's answer is longer than %d bytes", limit)}
	}
	return b, err
}

func (r *remote) Resolve(ctx context.Context, tag string) (v1.Hash, error) {
	var digest v1.Hash
	q := func() request {
		return request{method: http.MethodHead, url: r.endpoint("manifests", tag), header: http.Header{"Accept": {manifestTypes}}, accept: []int{http.StatusOK}}
	}
	err := r.call(ctx, q, func(resp *http.Response) (err error) {
		if h := resp.Header.Get("Docker-Content-Digest"); h != "" {
			digest, err = v1.NewHash(h)
		}
		return err
	})
	if err != nil {
		return v1.Hash{}, fmt.Errorf("resolving tag %s: %w", tag, err)
	}
	if digest == (v1.Hash{}) { // allowed by the specification
		m, err := r.Manifest(ctx, tag)
		return m.Digest, err
	}
	return digest, nil
}

func (r *remote) PutManifest(ctx context.Context, tag string, m Manifest) (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(m.Raw))
	if err != nil {
		return v1.Hash{}, err
	}
	q := func() request {
		return request{
			method: http.MethodPut, url: r.endpoint("manifests", tag), header: http.Header{"Content-Type": {m.MediaType}},
			body: bytes.NewReader(m.Raw), length: int64(len(m.Raw)), accept: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
		}
	}
	if err := r.call(ctx, q, nil); err != nil {
		return v1.Hash{}, fmt.Errorf("writing manifest %s: %w", tag, r.missingBlobs(ctx, m, err))
	}
	return digest, nil
}

// missingBlobs finds out whether err says that blobs are missing, and which.
func (r *remote) missingBlobs(ctx context.Context, m Manifest, err error) error {
	var te *transport.Error
	if !errors.As(err, &te) || te.StatusCode < 400 || te.StatusCode >= 500 {
		return err
	}
	var named []v1.Hash
	suspect := false
	for _, d := range te.Errors {
		switch d.Code {
		case transport.ManifestBlobUnknownErrorCode, transport.BlobUnknownErrorCode, transport.ManifestInvalidErrorCode:
			suspect = true
		}
		detail, _ := json.Marshal(d.Detail)
		named = append(named, digestsIn(string(detail))...)
	}
	if !suspect {
		return err
	}
	if len(named) == 0 { // not every registry says which
		for _, desc := range blobsOf(m) {
			if _, e := r.BlobSize(ctx, desc); errors.Is(e, ErrNotFound) {
				named = append(named, desc)
			}
		}
	}
	if len(named) == 0 {
		return err
	}
	slices.SortFunc(named, func(a, b v1.Hash) int { return strings.Compare(a.Hex, b.Hex) })
	return &MissingBlobsError{Digests: slices.Compact(named), Err: err}
}

// maxTags bounds what a registry can make us hold.
const maxTags = 1_000_000

func (r *remote) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	next := r.endpoint("tags", "list")
	next.RawQuery = "n=1000"
	for next != nil {
		u := next
		next = nil
		q := func() request { return request{method: http.MethodGet, url: u, accept: []int{http.StatusOK}} }
		err := r.call(ctx, q, func(resp *http.Response) error {
			raw, err := readBounded(resp.Body, 64<<20)
			if err != nil {
				return err
			}
			var page struct {
				Tags []string `json:"tags"`
			}
			if err := json.Unmarshal(raw, &page); err != nil {
				return permanentError{fmt.Errorf("decoding the tag list: %w", err)}
			}
			tags = append(tags, page.Tags...)
			next, err = nextPage(u, resp.Header.Values("Link"))
			return err
		})
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing tags: %w", err)
		}
		if len(tags) > maxTags {
			return nil, fmt.Errorf("listing tags: registry %s has more than %d", r.repo.RegistryStr(), maxTags)
		}
	}
	return tags, nil
}

// nextPage follows a Link header with rel="next", on the same host only.
func nextPage(from *url.URL, links []string) (*url.URL, error) {
	for _, l := range links {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "<"), ">")
		if !ok || !strings.Contains(params, `rel="next"`) && !strings.Contains(params, "rel=next") {
			continue
		}
		u, err := from.Parse(target)
		if err != nil || u.Host != from.Host || u.String() == from.String() {
			return nil, permanentError{fmt.Errorf("the tag list's next page is at %q", target)}
		}
		return u, nil
	}
	return nil, nil
}
