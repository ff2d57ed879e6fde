package registrytest

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// GitHub imitates, as documented, the two servers that a package on ghcr.io is
// behind: the registry, which refuses to delete, and the REST API. Both know
// one owner, one package and one token.
type GitHub struct {
	// Addr is the registry's, "127.0.0.1:PORT"; API is the API's base URL.
	Addr, API string
	// Owner and Package are what the registry calls OWNER/PACKAGE.
	Owner, Package string
	// Token is the only valid one.
	Token string

	// Change before the first request: Organization is what the owner is, else
	// a user; Self says that the token is the user's own; Private hides the
	// package from all but the user's own paths; Role is what the token has on
	// the package: "admin", "write", or "" for a token that does not see it.
	Organization, Self, Private bool
	Role                        string

	mu       sync.Mutex
	answer   func(w http.ResponseWriter, r *http.Request) bool
	now      time.Time
	lastID   int64
	versions []GitHubVersion // newest first
	log      []string
	store    http.Handler
}

// GitHubVersion is a version of the package.
type GitHubVersion struct {
	ID               int64
	Digest           string
	Tags             []string
	Created, Updated time.Time
}

// NewGitHub starts both servers. The token is an admin's.
func NewGitHub(tb testing.TB) *GitHub {
	tb.Helper()
	g := &GitHub{
		Owner: "owner", Package: "repo/nix-cache", Token: "ghs_secret-token-of-github", Role: "admin", now: time.Now(),
		store: registry.New(registry.Logger(log.New(io.Discard, "", 0))),
	}
	api := httptest.NewServer(http.HandlerFunc(g.serveAPI))
	tb.Cleanup(api.Close)
	reg := httptest.NewServer(http.HandlerFunc(g.serveRegistry))
	tb.Cleanup(reg.Close)
	g.API, g.Addr = api.URL, strings.TrimPrefix(reg.URL, "http://")
	return g
}

// Cache is the package as a user would write it for --cache.
func (g *GitHub) Cache() string { return g.Addr + "/" + g.Owner + "/" + g.Package }

// Answer makes the API answer differently, where it returns true.
func (g *GitHub) Answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = f
}

// Pass lets time pass for what is stored from now on.
func (g *GitHub) Pass(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = g.now.Add(d)
}

// Requests lists the requests to the API, "METHOD PATH?QUERY".
func (g *GitHub) Requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.log)
}

// Add adds a version that the registry knows nothing of.
func (g *GitHub) Add(digest string, tags ...string) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.add(digest, tags...)
}

func (g *GitHub) add(digest string, tags ...string) int64 {
	g.lastID++
	g.versions = slices.Insert(g.versions, 0, GitHubVersion{ID: g.lastID, Digest: digest, Tags: append([]string{}, tags...), Created: g.now, Updated: g.now})
	return g.lastID
}

// Versions lists the versions, newest first.
func (g *GitHub) Versions() []GitHubVersion {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.versions)
}

// Vanish deletes a version as if somebody else had.
func (g *GitHub) Vanish(digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.IndexFunc(g.versions, func(v GitHubVersion) bool { return v.Digest == digest }); i >= 0 {
		g.remove(i)
	}
}

// remove deletes a version in both servers.
func (g *GitHub) remove(i int) {
	for _, ref := range append([]string{g.versions[i].Digest}, g.versions[i].Tags...) {
		r := httptest.NewRequest(http.MethodDelete, "/v2/"+g.Owner+"/"+g.Package+"/manifests/"+ref, nil)
		g.store.ServeHTTP(httptest.NewRecorder(), r)
	}
	g.versions = slices.Delete(g.versions, i, i+1)
}

func (g *GitHub) serveRegistry(w http.ResponseWriter, r *http.Request) {
	ref, manifest := strings.CutPrefix(r.URL.Path, "/v2/"+g.Owner+"/"+g.Package+"/manifests/")
	if r.Method == http.MethodDelete {
		w.WriteHeader(http.StatusMethodNotAllowed)
		fmt.Fprint(w, `{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}`)
		return
	}
	rec := httptest.NewRecorder()
	g.store.ServeHTTP(rec, r)
	if digest := rec.Header().Get("Docker-Content-Digest"); manifest && r.Method == http.MethodPut && rec.Code == http.StatusCreated {
		g.tag(ref, digest)
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// tag moves a tag to a version, which is new perhaps.
func (g *GitHub) tag(tag, digest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.versions {
		v := &g.versions[i]
		if n := len(v.Tags); n > 0 {
			if v.Tags = slices.DeleteFunc(slices.Clone(v.Tags), func(t string) bool { return t == tag }); len(v.Tags) < n {
				v.Updated = g.now
			}
		}
	}
	for i := range g.versions {
		if v := &g.versions[i]; v.Digest == digest {
			v.Tags, v.Updated = append(v.Tags, tag), g.now
			return
		}
	}
	g.add(digest, tag)
}

func (g *GitHub) serveAPI(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.log = append(g.log, r.Method+" "+r.URL.RequestURI())
	answer := g.answer
	g.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case r.Header.Get("Accept") != "application/vnd.github+json" || r.Header.Get("X-Github-Api-Version") == "":
		GitHubError(w, http.StatusUnsupportedMediaType, "Unsupported 'Accept' header")
		return
	case token != "" && token != g.Token:
		GitHubError(w, http.StatusUnauthorized, "Bad credentials")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	path, owner := r.URL.EscapedPath(), map[string]string{"login": g.Owner, "type": "User"}
	if g.Organization {
		owner["type"] = "Organization"
	}
	packages := "/packages/container/" + url.PathEscape(g.Package) + "/versions"
	scope, rest, found := strings.Cut(path, packages)
	switch {
	case path == "/users/"+g.Owner:
		_ = json.NewEncoder(w).Encode(owner)
	case path == "/user" && (!g.Self || token == ""):
		GitHubError(w, http.StatusForbidden, "Resource not accessible by integration")
	case path == "/user":
		_ = json.NewEncoder(w).Encode(owner)
	case !found:
		GitHubError(w, http.StatusNotFound, "Not Found")
	case token == "":
		GitHubError(w, http.StatusUnauthorized, "Requires authentication")
	case !g.has(scope), g.Role == "":
		GitHubError(w, http.StatusNotFound, "Package not found.")
	default:
		g.serveVersions(w, r, strings.TrimPrefix(rest, "/"))
	}
}

// has says whether the package is found below a path.
func (g *GitHub) has(scope string) bool {
	switch scope {
	case "/orgs/" + g.Owner:
		return g.Organization
	case "/users/" + g.Owner:
		return !g.Organization && !g.Private
	}
	return scope == "/user" && g.Self
}

func (g *GitHub) serveVersions(w http.ResponseWriter, r *http.Request, id string) {
	if id == "" {
		g.serveList(w, r)
		return
	}
	i := slices.IndexFunc(g.versions, func(v GitHubVersion) bool { return strconv.FormatInt(v.ID, 10) == id })
	switch {
	case i < 0, r.Method == http.MethodDelete && g.Role != "admin":
		GitHubError(w, http.StatusNotFound, "Package not found.")
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(describe(g.versions[i]))
	case r.Method != http.MethodDelete:
		GitHubError(w, http.StatusNotFound, "Not Found")
	case len(g.versions[i].Tags) > 0 && g.tagged() == 1:
		GitHubError(w, http.StatusBadRequest, "You cannot delete the last tagged version of a package. You must delete the package instead.")
	default:
		g.remove(i)
		w.WriteHeader(http.StatusNoContent)
	}
}

// tagged counts the versions with a tag.
func (g *GitHub) tagged() int {
	n := 0
	for _, v := range g.versions {
		if len(v.Tags) > 0 {
			n++
		}
	}
	return n
}

func (g *GitHub) serveList(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		GitHubError(w, http.StatusNotFound, "Not Found")
		return
	}
	size, page := 30, 1
	if n, err := strconv.Atoi(r.URL.Query().Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	if n, err := strconv.Atoi(r.URL.Query().Get("page")); err == nil && n > 0 {
		page = n
	}
	first, last := min((page-1)*size, len(g.versions)), min(page*size, len(g.versions))
	if last < len(g.versions) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next", <%s?page=%d>; rel="last"`, g.API+r.URL.Path, page+1, g.API+r.URL.Path, len(g.versions)/size+1))
	}
	list := []any{}
	for _, v := range g.versions[first:last] {
		list = append(list, describe(v))
	}
	_ = json.NewEncoder(w).Encode(list)
}

func describe(v GitHubVersion) any {
	return map[string]any{
		"id": v.ID, "name": v.Digest, "created_at": v.Created, "updated_at": v.Updated,
		"metadata": map[string]any{"package_type": "container", "container": map[string]any{"tags": v.Tags}},
	}
}

// GitHubError answers as the API does when it refuses.
func GitHubError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)})
}
