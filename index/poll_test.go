package index_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registrytest"
)

// A look at a cache in which nothing is new asks for a digest, and for no
// manifest: Docker Hub counts those.
func TestPoll(t *testing.T) {
	f := registrytest.NewFaulty(t, registrytest.NewDistribution(t).Addr)
	var mu sync.Mutex
	var asked []string
	f.Inject(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/a/b/") {
			mu.Lock()
			asked = append(asked, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v2/a/b/"))
			mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
	open := indextest.Opener(t, f.Addr+"/a/b")
	writer := open()
	indextest.MustPublish(t, writer, indextest.NewEntry(t, writer, "a"))
	reader := index.Open(open(), indextest.Quick())
	look := func() []string {
		mu.Lock()
		asked = nil
		mu.Unlock()
		if _, err := reader.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
	look()
	for range 2 {
		if got := look(); !slices.Equal(got, []string{"HEAD manifests/cache-index"}) {
			t.Errorf("nothing new: asked for %q", got)
		}
	}
	indextest.MustPublish(t, writer, indextest.NewEntry(t, writer, "b"))
	if got := look(); len(got) != 4 || got[1] != "GET manifests/cache-index" {
		t.Errorf("news: asked for %q", got)
	}
	if s := reader.Current(); s.Len() != 2 {
		t.Errorf("it shows %d paths", s.Len())
	}
}
