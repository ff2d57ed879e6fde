package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/registry"
)

func TestOpenRepository(t *testing.T) {
	agents := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agents <- r.UserAgent()
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	repo, err := OpenRepository(strings.TrimPrefix(srv.URL, "http://")+"/a/b", registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Resolve(t.Context(), "x"); err == nil {
		t.Error("what is not there was found")
	}
	if got := <-agents; !strings.HasPrefix(got, "nixoci/"+Version()) {
		t.Errorf("the registry sees %q", got)
	}
	var status *statusError
	if _, err := OpenRepository("no name", registry.Options{}); !errors.As(err, &status) || status.status != ExitUsage {
		t.Errorf("got %v", err)
	}
}
