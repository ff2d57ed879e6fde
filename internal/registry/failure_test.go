package registry

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a registry answers is shown as it has said it, never as Go prints it.
func TestAnswersAreReadable(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		errors any
		want   string
	}{
		"a refusal":   {[]any{map[string]any{"code": "DENIED", "message": "access denied", "detail": []any{map[string]any{"Type": "repository", "Action": "push"}}}}, "DENIED: access denied"},
		"a detail":    {[]any{map[string]any{"code": "MANIFEST_INVALID", "message": "no", "detail": map[string]any{"digest": "sha256:x"}}}, `MANIFEST_INVALID: no; {"digest":"sha256:x"}`},
		"words":       {[]any{map[string]any{"code": "MANIFEST_INVALID", "message": "no", "detail": "unknown media type"}}, "MANIFEST_INVALID: no; unknown media type"},
		"no detail":   {[]any{map[string]any{"code": "MANIFEST_INVALID", "message": "no"}}, "MANIFEST_INVALID: no"},
		"two of them": {[]any{map[string]any{"code": "DENIED", "message": "a", "detail": map[string]any{"x": "y"}}, map[string]any{"code": "SIZE_INVALID", "message": "b", "detail": map[string]any{"n": 1}}}, `DENIED: a; SIZE_INVALID: b; {"n":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					return
				}
				w.WriteHeader(http.StatusForbidden)
				_ = json.NewEncoder(w).Encode(map[string]any{"errors": tc.errors})
			}))
			t.Cleanup(s.Close)
			repo, err := Open(strings.TrimPrefix(s.URL, "http://")+"/a/b", Options{Push: true})
			if err != nil {
				t.Fatal(err)
			}
			_, err = repo.Manifest(t.Context(), "x")
			if err == nil || !strings.HasSuffix(err.Error(), tc.want) || strings.Contains(err.Error(), "map[") {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}
