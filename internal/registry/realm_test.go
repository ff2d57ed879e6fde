package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A registry that is named by its private address may have its token service at
// another port of it, and nowhere else that is private. The query of its URL
// stays.
func TestRealm(t *testing.T) {
	var tokens atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.URL.Path != "/jwt/auth" || r.URL.Query().Get("a") != "b" || r.URL.Query().Get("scope") == "" || user != fakeUser || password != fakePassword {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":"t%d"}`, tokens.Add(1))
	}))
	defer service.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(service.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	const blob = "x"
	for _, tt := range []struct {
		name, realm, fails string
	}{
		{"another port", "http://127.0.0.1:" + port + "/jwt/auth?a=b", ""},
		{"another address", "http://127.0.0.2:" + port + "/jwt/auth?a=b", "private or link-local"},
		{"a service of the cloud", "http://169.254.169.254/jwt/auth?a=b", "private or link-local"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tokens.Load()
			f := newUnstartedFake(t)
			good := f.put([]byte(blob))
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer t") {
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+tt.realm+`",service="s"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				r.Header.Del("Authorization")
				f.ServeHTTP(w, r)
			}))
			defer s.Close()
			f.addr = strings.TrimPrefix(s.URL, "http://")
			n, err := f.open().BlobSize(within(t, 10*time.Second), digestOf(t, good))
			switch {
			case tt.fails == "" && (err != nil || n != int64(len(blob)) || tokens.Load() == before):
				t.Errorf("got %d, %v", n, err)
			case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails) || tokens.Load() != before):
				t.Errorf("got %d, %v", n, err)
			}
		})
	}
}
