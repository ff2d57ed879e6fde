package closure_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/closure"
	"github.com/org/nixoci-action/internal/upstreamtest"
)

func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	set := newSet(t, "app", info("app", "app", "bash", "lib"), info("bash", "libc"), info("libc"), info("lib"))
	up := upstreamtest.Serve(t, "bash")
	edge := func(a, b string) string { return storePath(a) + " -> " + storePath(b) }
	for name, tt := range map[string]struct {
		breakIt func(p *closure.Plan, at map[string]*closure.Decision)
		want    string
	}{
		"nothing":            {func(*closure.Plan, map[string]*closure.Decision) {}, ""},
		"excluded reference": {func(_ *closure.Plan, at map[string]*closure.Decision) { at["lib"].Kind = closure.KindExcluded }, edge("app", "lib")},
		"left-out reference": {func(_ *closure.Plan, at map[string]*closure.Decision) {
			at["libc"].Kind, at["libc"].Needs = closure.KindNeedsExcluded, at["lib"].Path
		}, edge("bash", "libc")},
		"undecided reference": {func(_ *closure.Plan, at map[string]*closure.Decision) { at["lib"].Kind = 0 }, edge("app", "lib")},
		"undecided root":      {func(_ *closure.Plan, at map[string]*closure.Decision) { at["app"].Kind = 0 }, "app is not decided"},
		"missing":             {func(p *closure.Plan, _ map[string]*closure.Decision) { p.Decisions = p.Decisions[:3] }, "app is not decided"},
		"missing reference":   {func(p *closure.Plan, _ map[string]*closure.Decision) { p.Decisions = p.Decisions[1:] }, edge("bash", "libc")},
		"wrong order":         {func(p *closure.Plan, _ map[string]*closure.Decision) { slices.Reverse(p.Decisions) }, edge("app", "bash")},
		"twice":               {func(p *closure.Plan, at map[string]*closure.Decision) { p.Decisions = append(p.Decisions, *at["app"]) }, "app is decided twice"},
		"below nothing": {func(_ *closure.Plan, at map[string]*closure.Decision) {
			at["lib"].Kind, at["lib"].Upstream = closure.KindBelow, up.URL
		}, "lib: nothing on " + up.URL},
		"below another upstream": {func(_ *closure.Plan, at map[string]*closure.Decision) {
			at["libc"].Upstream = "https://other.example"
		}, "libc: nothing on https://other.example"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := filter(t, set, closure.Options{Upstreams: []closure.Upstream{ask(t, up.URL, quick)}})
			at := map[string]*closure.Decision{}
			for i := range p.Decisions {
				at[p.Decisions[i].Path.Store.Name] = &p.Decisions[i]
			}
			tt.breakIt(p, at)
			err := p.Check()
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}
