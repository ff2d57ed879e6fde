package registrytest

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Private is a registry in which each user may read some repositories only. It
// stands before another registry, which knows no users; what the test writes
// goes there.
type Private struct {
	// Addr is "127.0.0.1:PORT".
	Addr string

	tokens bool

	mu       sync.Mutex
	users    map[string]string   // passwords
	may      map[string][]string // prefixes of repositories, by user
	open     []string            // the same, for everybody
	issued   map[string]string   // user, by token
	requests []string
}

// NewPrivate starts one before the registry at backend. With tokens it speaks
// the token protocol, else HTTP Basic.
func NewPrivate(tb testing.TB, backend string, tokens bool) *Private {
	tb.Helper()
	p := &Private{tokens: tokens, users: map[string]string{}, may: map[string][]string{}, issued: map[string]string{}}
	next := behind(backend)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, next) }))
	tb.Cleanup(s.Close)
	p.Addr = strings.TrimPrefix(s.URL, "http://")
	return p
}

// User gives a user a password, and access to the repositories whose names
// begin with one of the prefixes. An empty password ends all that.
func (p *Private) User(name, password string, prefixes ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users[name], p.may[name] = password, prefixes
}

// Open lets everybody read the repositories whose names begin with prefix.
func (p *Private) Open(prefix string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, prefix)
}

// Requests lists the requests for repositories, "USER METHOD PATH", with "-"
// for nobody.
func (p *Private) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// who returns the user of a request; ok is false if it has a wrong password.
func (p *Private) who(r *http.Request) (user string, ok bool) {
	header := r.Header.Get("Authorization")
	if token, bearer := strings.CutPrefix(header, "Bearer "); bearer && p.tokens {
		user, ok = p.issued[token]
		return user, ok
	}
	if p.tokens && r.URL.Path != "/token" { // it takes passwords nowhere else
		return "", header == ""
	}
	user, password, basic := r.BasicAuth()
	if !basic {
		return "", header == ""
	}
	return user, password != "" && p.users[user] == password
}

func (p *Private) allows(user, repository string) bool {
	has := func(prefix string) bool { return strings.HasPrefix(repository, prefix) }
	return slices.ContainsFunc(p.open, has) || p.users[user] != "" && slices.ContainsFunc(p.may[user], has)
}

func (p *Private) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	p.mu.Lock()
	user, ok := p.who(r)
	repository := ""
	if rest, found := strings.CutPrefix(r.URL.Path, "/v2/"); found {
		for _, kind := range []string{"/manifests/", "/blobs/", "/tags/"} {
			if i := strings.LastIndex(rest, kind); i > 0 {
				repository = rest[:i]
			}
		}
	}
	if repository != "" {
		p.requests = append(p.requests, fmt.Sprintf("%s %s %s", cmp.Or(user, "-"), r.Method, r.URL.Path))
	}
	allowed := ok && repository != "" && p.allows(user, repository)
	token := ""
	if ok && r.URL.Path == "/token" {
		token = fmt.Sprintf("token-%d", len(p.issued)+1)
		p.issued[token] = user
	}
	ping := ok && r.URL.Path == "/v2/" && (user != "" || p.tokens && r.Header.Get("Authorization") != "")
	p.mu.Unlock()
	switch {
	case token != "":
		fmt.Fprintf(w, `{"token":%q}`, token)
	case allowed, ping:
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	case r.URL.Path == "/token":
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	case ok && repository != "" && (user != "" || p.tokens && r.Header.Get("Authorization") != ""):
		http.Error(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`, http.StatusForbidden)
	default:
		challenge := `Basic realm="private"`
		if p.tokens {
			challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="private"`, p.Addr)
		}
		w.Header().Set("WWW-Authenticate", challenge)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
	}
}
