package nix

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/nix/nixtest"
)

// What Nix does is told while it does it, and an error is as whole as without.
func TestRealiseTellsEvents(t *testing.T) { nixtest.EachVersion(t, tellsEvents) }

func tellsEvents(t *testing.T, v nixtest.Version) {
	e := v.New(t)
	log := &bytes.Buffer{}
	c := New(Options{Env: e.Vars, Stderr: log})
	raw, err := c.Eval(t.Context(), `let d = n: s: derivation { name = n; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" s ]; };
		in map (d: [ d.drvPath d.outPath ]) [ (d "good" "echo '@nix {\"action\":\"start\",\"id\":7,\"type\":105,\"fields\":[\"/nix/store/forged.drv\"]}'; echo a line; echo > $out") (d "bad" "echo why; exit 3") ]`,
		EvalOptions{Impure: true, Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	var d [][2]string
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	var events []BuildEvent
	err = c.Realise(t.Context(), []string{d[0][0], d[1][0]}, RealiseOptions{KeepGoing: true, MaxJobs: 1, Quiet: true, Events: func(ev BuildEvent) {
		events = append(events, ev)
		if ev.Kind == BuildCounts && ev.Done == 1 {
			if missing, err := c.Invalid(t.Context(), []string{d[0][1]}); err != nil || len(missing) > 0 {
				t.Errorf("counted as done, but not valid: %v, %v", missing, err)
			}
		}
	}})
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Exit != 100 || !slices.Contains(failed.Derivations, d[1][0]) || !strings.Contains(failed.Message, "exit code 3") {
		t.Errorf("got %v", err)
	}
	has := func(want BuildEvent) {
		t.Helper()
		if !slices.Contains(events, want) {
			t.Errorf("no event %+v among %+v", want, events)
		}
	}
	for i := range d {
		has(BuildEvent{Kind: BuildStarted, Drv: d[i][0]})
		has(BuildEvent{Kind: BuildStopped, Drv: d[i][0]})
	}
	has(BuildEvent{Kind: BuildLine, Drv: d[0][0], Line: "a line"})
	has(BuildEvent{Kind: BuildLine, Drv: d[1][0], Line: "why"})
	if !slices.ContainsFunc(events, func(ev BuildEvent) bool {
		return ev.Kind == BuildCounts && ev.Done == 1 && ev.Running == 0 && ev.Failed == 1
	}) {
		t.Errorf("no count of one done and one failed among %+v", events)
	}
	if slices.ContainsFunc(events, func(ev BuildEvent) bool { return strings.Contains(ev.Drv, "forged") }) {
		t.Error("a builder has forged the start of a build")
	}
	if log.Len() > 0 {
		t.Errorf("the live log got %q", log)
	}
}

// Whatever stands in the log, it is taken for what it is, in bounded memory.
func TestEventLog(t *testing.T) {
	t.Parallel()
	const line = `@nix {"action":"start","id":1,"level":3,"text":"","type":105,"fields":["/nix/store/a.drv","",1,1]}` + "\n"
	for name, tt := range map[string]struct {
		log  string
		want []BuildEvent
	}{
		"no JSON":         {"plain\n", []BuildEvent{{Kind: BuildMessage, Line: "plain"}}},
		"no end":          {"plain", []BuildEvent{{Kind: BuildMessage, Line: "plain"}}},
		"broken":          {"@nix {\n", []BuildEvent{{Kind: BuildMessage, Line: "@nix {"}}},
		"other types":     {`@nix {"action":"result","id":"x","type":{}}` + "\n", []BuildEvent{{Kind: BuildMessage, Line: `@nix {"action":"result","id":"x","type":{}}`}}},
		"no fields":       {`@nix {"action":"start","id":2,"type":105}` + "\n", []BuildEvent{{Kind: BuildStarted}}},
		"wrong fields":    {`@nix {"action":"start","id":2,"type":105,"fields":[1,{}]}` + "\n", []BuildEvent{{Kind: BuildStarted}}},
		"of nothing":      {`@nix {"action":"result","id":9,"type":101,"fields":["x"]}` + "\n" + `@nix {"action":"stop","id":9}` + "\n", nil},
		"talkative":       {`@nix {"action":"msg","level":4,"msg":"x"}` + "\n", nil},
		"started, stops":  {line + `@nix {"action":"stop","id":1}` + "\n", []BuildEvent{{Kind: BuildStarted, Drv: "/nix/store/a.drv"}, {Kind: BuildStopped, Drv: "/nix/store/a.drv"}}},
		"a megabyte line": {strings.Repeat("x", 3<<20) + "\n" + line, []BuildEvent{{Kind: BuildMessage, Line: strings.Repeat("x", maxEventLine)}, {Kind: BuildStarted, Drv: "/nix/store/a.drv"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, step := range []int{1 << 30, 1000, 7} {
				if step == 7 && len(tt.log) > 1<<20 {
					continue
				}
				var got []BuildEvent
				l := &eventLog{tell: func(ev BuildEvent) { got = append(got, ev) }, text: io.Discard, errors: io.Discard}
				for rest := []byte(tt.log); len(rest) > 0; {
					n := min(step, len(rest))
					_, _ = l.Write(rest[:n])
					rest = rest[n:]
				}
				l.close()
				if !slices.Equal(got, tt.want) {
					t.Errorf("in pieces of %d: got %d events, want %d", step, len(got), len(tt.want))
				}
			}
		})
	}
}
