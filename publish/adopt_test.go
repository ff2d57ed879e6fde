package publish

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/ui"
)

// A takeover that would empty the cache for its old clients stops, unless it was
// said that they do not count. A dry run warns.
func TestAdoptKeepsOldClients(t *testing.T) {
	t.Parallel()
	repo := indextest.NewMemory()
	var entries []format.Entry
	for i := range index.MaxCompatIndex + 1 {
		entries = append(entries, indextest.NewEntry(t, repo, fmt.Sprint("p", i)))
	}
	indextest.PutForeign(t, repo, indextest.ForeignIndexOf(entries...))
	adopt := func(o Options) (said string, err error) {
		var log bytes.Buffer
		o.Messages, o.Repo, o.Index = ui.New(&log, func(string) string { return "" }), repo, index.Open(repo, indextest.Quick())
		base, err := o.Index.Sweep(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = newPublisher(o).adopt(t.Context(), base)
		return log.String(), err
	}
	tags := indextest.Tags(t, repo)
	if _, err := adopt(Options{}); err == nil || !strings.Contains(err.Error(), "it has 5,001 paths") || !strings.Contains(hint.Of(err), "--compat-index off") {
		t.Errorf("got %v", err)
	}
	if said, err := adopt(Options{DryRun: true}); err != nil || !strings.Contains(said, "warning: taking over this cache") {
		t.Errorf("a dry run: got %v, %s", err, said)
	}
	if now := indextest.Tags(t, repo); !slices.Equal(now, tags) {
		t.Errorf("got the tags %v, had %v", now, tags)
	}
	off := false
	if said, err := adopt(Options{CompatIndex: &off}); err != nil || strings.Contains(said, "warning") {
		t.Errorf("when it is told: got %v, %s", err, said)
	}
}
