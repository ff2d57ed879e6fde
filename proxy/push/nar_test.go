package push

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// A NAR waits for its path as long as its client pushes anything, or somebody
// asks whether it is here.
func TestNARsWaitForActiveClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Receiver{log: slog.New(slog.DiscardHandler), nars: map[string]*pendingNAR{}, seen: map[string]time.Time{}}
		request := func(method, path, address string) *http.Request {
			r := httptest.NewRequest(method, path, nil)
			r.RemoteAddr = address + ":1"
			return r
		}
		for _, c := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
			p.nars[c] = &pendingNAR{client: c, since: time.Now()}
		}
		for range 5 {
			time.Sleep(40 * time.Minute)
			w := httptest.NewRecorder()
			p.ServeHTTP(w, request(http.MethodPut, "/no-such-file", "127.0.0.1"))
			if w.Code != http.StatusMethodNotAllowed {
				t.Fatalf("got %d", w.Code)
			}
			p.ServeHTTP(httptest.NewRecorder(), request(http.MethodPut, "/no-such-file", "192.0.2.1")) // which may not push
			p.Asked(request(http.MethodHead, "/", "127.0.0.4"), "127.0.0.2")
			if p.nars["127.0.0.3"] != nil {
				p.Asked(request(http.MethodHead, "/", "192.0.2.1"), "127.0.0.3")
			}
			p.expire()
		}
		if p.nars["127.0.0.1"] == nil || p.nars["127.0.0.2"] == nil || p.nars["127.0.0.3"] != nil || len(p.seen) != 2 {
			t.Errorf("got %v of %v", p.nars, p.seen)
		}
		time.Sleep(2 * pendingFor)
		if p.expire(); len(p.nars)+len(p.seen) != 0 {
			t.Errorf("got %v of %v", p.nars, p.seen)
		}
	})
}
