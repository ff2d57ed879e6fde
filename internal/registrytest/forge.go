package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Forge imitates the registry of a Gitea or a Forgejo, as their source has it
// (routers/api/packages/container): a distribution behind their logins, their
// refusals and their words. Everybody may read it.
type Forge struct {
	// URL is the server's, "http://127.0.0.1:PORT", as a runner gets it.
	URL string
	// Addr is its host and port.
	Addr string
	// Token is an access token with the scope write:package, JobToken what a job
	// gets: the registry knows it, and lets it read only.
	Token, JobToken string
	// Storage is what is behind it.
	Storage *Distribution

	mu      sync.Mutex
	uploads map[string]int64 // bytes so far, by the upload's path
	log     []string
}

// NewForge starts one.
func NewForge(tb testing.TB) *Forge {
	tb.Helper()
	f := &Forge{
		Token: "0123456789abcdef0123456789abcdef01234567", JobToken: "fedcba9876543210fedcba9876543210fedcba98",
		Storage: NewDistribution(tb), uploads: map[string]int64{},
	}
	s := httptest.NewServer(f)
	tb.Cleanup(s.Close)
	f.URL, f.Addr = s.URL, strings.TrimPrefix(s.URL, "http://")
	return f
}

// Cache is a repository's cache, as a job has it by default.
func (f *Forge) Cache(repository string) string {
	return f.Addr + "/" + strings.ToLower(repository) + "/nix-cache"
}

// Requests lists the requests so far, "METHOD PATH STATUS", those for tokens
// with the user.
func (f *Forge) Requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Resolve makes it a keychain with the user's login.
func (f *Forge) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: "anybody", Password: f.Token}), nil
}

// The bearer tokens; the real ones are signed.
const (
	ghostBearer = "bearer-of-nobody"
	readBearer  = "bearer-of-a-job"
	writeBearer = "bearer-of-a-user"
)

// forgeImage is the form that they want of an image's name, below its owner.
var forgeImage = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*$`)

const forgeManifestSize = 10 << 20

// ServeHTTP is the registry.
func (f *Forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &statusRecorder{ResponseWriter: w}
	what := r.Method + " " + r.URL.Path
	f.serve(rec, r)
	if user, _, ok := r.BasicAuth(); ok {
		what += " as " + user
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what+" "+strconv.Itoa(rec.status))
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (f *Forge) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/token" {
		f.serveToken(w, r)
		return
	}
	bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !slices.Contains([]string{ghostBearer, readBearer, writeBearer}, bearer) {
		w.Header().Add("WWW-Authenticate", `Bearer realm="`+f.URL+`/v2/token",service="container_registry",scope="*"`)
		w.Header().Add("WWW-Authenticate", "Basic")
		forgeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	if strings.TrimSuffix(r.URL.Path, "/") == "/v2" {
		w.WriteHeader(http.StatusOK)
		return
	}
	upload := strings.Contains(r.URL.Path, "/blobs/uploads")
	if (upload || r.Method != http.MethodGet && r.Method != http.MethodHead) && bearer != writeBearer {
		w.Header().Set("WWW-Authenticate", `Basic realm="Gitea Package API"`)
		http.Error(w, "reqPackageAccess", http.StatusUnauthorized)
		return
	}
	image, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	image, _, _ = strings.Cut(image, "/manifests/")
	image = strings.TrimSuffix(image, "/tags/list")
	if _, image, _ = strings.Cut(image, "/"); !forgeImage.MatchString(image) {
		forgeError(w, http.StatusBadRequest, "NAME_INVALID", "invalid repository name")
		return
	}
	r.Header.Del("Authorization")
	r.Header.Del("Range") // it sends whole blobs only
	switch {
	case strings.HasSuffix(r.URL.Path, "/tags/list"):
		f.serveTags(w, r)
	case upload:
		f.serveUpload(w, r)
	default:
		f.forward(w, r)
	}
}

// serveToken gives a token for a login. Only the password counts; without one it
// is for nobody.
func (f *Forge) serveToken(w http.ResponseWriter, r *http.Request) {
	_, password, ok := r.BasicAuth()
	bearer := ghostBearer
	switch {
	case !ok:
	case password == f.Token:
		bearer = writeBearer
	case password == f.JobToken:
		bearer = readBearer
	default:
		http.Error(w, "authGroup.Verify", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(map[string]string{"token": bearer})
}

// serveUpload takes the chunks of a blob in their order.
func (f *Forge) serveUpload(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	size := f.uploads[r.URL.Path]
	f.mu.Unlock()
	if r.Method == http.MethodPatch {
		var start, end int64
		switch text := r.Header.Get("Content-Range"); {
		case text == "" && size != 0:
			forgeError(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "Stream uploads after first write are not allowed")
			return
		case text == "":
		default:
			if n, err := fmt.Sscanf(text, "%d-%d", &start, &end); n != 2 || err != nil {
				forgeError(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "blob upload invalid")
				return
			}
			if start != size {
				forgeError(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "blob upload invalid")
				return
			}
		}
	}
	body := &countingBody{ReadCloser: r.Body}
	r.Body = body
	f.forward(w, r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uploads[r.URL.Path] += body.n
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}

// serveTags lists tags by pages. A page that is not empty has a link to the next
// one, also the last.
func (f *Forge) serveTags(w http.ResponseWriter, r *http.Request) {
	resp, err := http.Get("http://" + f.Storage.Addr + r.URL.Path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer resp.Body.Close()
	var list struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&list) != nil {
		forgeError(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	slices.Sort(list.Tags)
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		list.Tags = slices.DeleteFunc(list.Tags, func(tag string) bool { return tag <= last })
	}
	if n, err := strconv.Atoi(q.Get("n")); err == nil && n >= 0 && n < len(list.Tags) {
		list.Tags = list.Tags[:n]
	}
	if n := len(list.Tags); n > 0 {
		q.Set("last", list.Tags[n-1])
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, q.Encode()))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(w).Encode(list)
}

// forward has the storage answer, and changes what it says.
func (f *Forge) forward(w http.ResponseWriter, r *http.Request) {
	dir, ref := path.Split(r.URL.Path)
	manifest := strings.HasSuffix(dir, "/manifests/")
	if manifest && !strings.Contains(ref, ":") {
		r.URL.Path = dir + strings.ToLower(ref) // as the name of a version
	}
	if manifest && r.Method == http.MethodPut {
		body, err := io.ReadAll(io.LimitReader(r.Body, forgeManifestSize+1))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if len(body) > forgeManifestSize {
			forgeError(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "Manifest exceeds maximum size")
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: f.Storage.Addr})
			p.Out.Host = p.In.Host // the storage makes URLs of it
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode < 400 || resp.Body == nil {
				return nil
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if manifest && r.Method == http.MethodPut && bytes.Contains(text, []byte("MANIFEST_BLOB_UNKNOWN")) {
				// it does not say which one
				resp.StatusCode, text = http.StatusNotFound, forgeErrorText("BLOB_UNKNOWN", "blob unknown to registry")
			}
			resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
			resp.Body = io.NopCloser(bytes.NewReader(text))
			return nil
		},
	}
	proxy.ServeHTTP(w, r)
}

func forgeErrorText(code, message string) []byte {
	text, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
	return text
}

func forgeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(forgeErrorText(code, message))
}
