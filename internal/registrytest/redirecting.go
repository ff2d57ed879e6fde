package registrytest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Redirecting is a registry that wants a login and sends who reads a blob to a
// storage with signed URLs, as the large ones do. Behind it is a distribution.
type Redirecting struct {
	// Addr is the registry's "127.0.0.1:PORT".
	Addr string
	// User and Password are the login.
	User, Password string
	// Lifetime is how many seconds a URL is valid.
	Lifetime atomic.Int64
	// Stored and Refused count the requests that the storage has answered, and
	// those that it has not.
	Stored, Refused atomic.Int64
}

// NewRedirecting starts one.
func NewRedirecting(tb testing.TB) *Redirecting {
	tb.Helper()
	d := NewDistribution(tb)
	r := &Redirecting{User: "user", Password: "hunter2"}
	r.Lifetime.Store(3600)
	behind := &url.URL{Scheme: "http", Host: d.Addr}
	storage := httptest.NewServer(r.storage(behind))
	tb.Cleanup(storage.Close)
	// another name: clients send what is for a host to all of its ports
	at := strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(behind)
		p.Out.Host = p.In.Host // uploads go on here
		p.Out.Header.Del("Authorization")
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != r.User || password != r.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		if strings.Contains(q.URL.Path, "/blobs/sha256:") && q.Method == http.MethodGet {
			w.Header().Set("Location", at+q.URL.Path+"?"+r.sign(q.URL.Path, time.Now()))
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		forward.ServeHTTP(w, q)
	}))
	tb.Cleanup(front.Close)
	r.Addr = strings.TrimPrefix(front.URL, "http://")
	return r
}

const signTime = "20060102T150405Z"

// sign makes the query of a URL. It has what is changed by those who parse it
// and write it again.
func (r *Redirecting) sign(path string, at time.Time) string {
	query := fmt.Sprintf("X-Amz-Expires=%d&X-Amz-Date=%s&A=%%2f+%%2F", r.Lifetime.Load(), at.UTC().Format(signTime))
	return query + "&X-Amz-Signature=" + signature(path, query)
}

func signature(path, query string) string {
	mac := hmac.New(sha256.New, []byte("the storage's key"))
	_, _ = io.WriteString(mac, path+"?"+query)
	return url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// storage serves blobs to those who have a URL for it and nothing else.
func (r *Redirecting) storage(behind *url.URL) http.Handler {
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(behind)
		p.Out.URL.RawQuery = ""
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		query, sig, ok := strings.Cut(q.URL.RawQuery, "&X-Amz-Signature=")
		values, err := url.ParseQuery(query)
		date, dateErr := time.Parse(signTime, values.Get("X-Amz-Date"))
		lifetime, lifeErr := time.ParseDuration(values.Get("X-Amz-Expires") + "s")
		status := 0
		switch {
		case q.Header.Get("Authorization") != "":
			status = http.StatusBadRequest // as S3: one kind of authorization only
		case q.Method != http.MethodGet, !ok, err != nil, dateErr != nil, lifeErr != nil, sig != signature(q.URL.Path, query), time.Now().After(date.Add(lifetime)):
			status = http.StatusForbidden
		}
		if status != 0 {
			r.Refused.Add(1)
			http.Error(w, "refused", status)
			return
		}
		r.Stored.Add(1)
		forward.ServeHTTP(w, q)
	})
}
