package report

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

// What the lists say one by one is not said again, however it is wrapped; the
// rest is.
func TestOtherError(t *testing.T) {
	t.Parallel()
	r := &Publish{Outputs: []Output{{Attr: "b", Status: OutputFailed, Reason: "build failed", Log: "a line\nit says why\n"}, {Attr: "a", Status: OutputBuilt}}}
	outputs := r.CheckOutputs()
	unsent := UnsentError([]error{errors.New("the registry is down"), errors.New("the registry is down")})
	down := hint.Wrap(errors.New("the index is gone"), "look for it")
	for _, tc := range []struct {
		name   string
		err    error
		status Status
		text   string
		other  string
	}{
		{"nothing", nil, Done, "", ""},
		{"outputs", outputs, Failed, "1 output failed: b (build failed)", ""},
		{"in part", AsPartly(hint.Wrap(outputs, "build it")), Partly, "1 output failed: b (build failed)", ""},
		{"paths", errors.Join(outputs, errors.Join(nil, unsent, down)), Failed,
			"1 output failed: b (build failed)\nthe registry is down\n2 paths not uploaded\nthe index is gone", "the index is gone"},
		{"something else", AsPartly(fmt.Errorf("doing it: %w", down)), Partly, "doing it: the index is gone", "doing it: the index is gone"},
		{"misuse", AsMisuse(down), Failed, "the index is gone", "the index is gone"},
		{"a list in a sentence", fmt.Errorf("in vain: %w", outputs), Failed, "in vain: 1 output failed: b (build failed)", "in vain: 1 output failed: b (build failed)"},
	} {
		r.Finish(nil, tc.err)
		if r.Status != tc.status || r.Error != tc.text || r.OtherError != tc.other {
			t.Errorf("%s: got %s, %q and %q, want %s, %q and %q", tc.name, r.Status, r.Error, r.OtherError, tc.status, tc.text, tc.other)
		}
	}
	// whatever else there is to say, each has its line
	if want := "\nfailed: b: build failed: it says why\n"; !strings.Contains(r.Text(), want) {
		t.Errorf("got %s, want %q in it", r.Text(), want)
	}
	if err := AsPartly(hint.Wrap(down, "")); !IsPartly(err) || IsMisuse(err) || hint.Of(err) != "look for it" || IsPartly(down) {
		t.Errorf("got %v", err)
	}
	if AsPartly(nil) != nil || AsMisuse(nil) != nil || (&Publish{}).CheckOutputs() != nil || UnsentError(nil) != nil {
		t.Error("an error without a failure")
	}
}
