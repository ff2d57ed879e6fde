package nix

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
)

// BuildEventKind is what a BuildEvent tells.
type BuildEventKind int

// The kinds of events.
const (
	// BuildStarted: a build has begun. Nix may begin one again.
	BuildStarted BuildEventKind = iota + 1
	// BuildStopped: Nix says no more of a build. Before Nix 2.34 that may be long
	// after its end, for what was asked for only at the end of all.
	BuildStopped
	// BuildLine: a builder has printed a line.
	BuildLine
	// BuildCounts: a number has changed. What a count calls done is valid.
	BuildCounts
	// BuildFetching: a path is being fetched from a substituter.
	BuildFetching
	// BuildMessage: Nix itself says something, or a program that it runs.
	BuildMessage
)

// BuildEvent is something that Nix says while it builds.
type BuildEvent struct {
	Kind BuildEventKind
	// Drv is the derivation of BuildStarted, BuildStopped and BuildLine; Path the
	// store path of BuildFetching.
	Drv, Path string
	// Line is the text of BuildLine and BuildMessage, as it was printed: it may
	// have escape sequences in it, and a BuildMessage newlines.
	Line string
	// The numbers of BuildCounts are of builds. Expected grows while Nix finds out
	// what is to be built.
	Done, Expected, Running, Failed int
}

// Of Nix's internal-json log: numbers of activities, results and levels.
const (
	activityBuild      = 105
	activityBuilds     = 104
	activitySubstitute = 108
	resultLine         = 101
	resultProgress     = 105
	levelWarn          = 1
	levelInfo          = 3
)

// maxEventLine bounds a line of the log that is looked at, in bytes. Of a longer
// one the rest is left out.
const maxEventLine = 1 << 20

// eventLog turns Nix's log in the format internal-json into events. What is not
// in that format is a message. What people would see goes to text as well, and
// what Nix says of errors to errors.
type eventLog struct {
	tell         func(BuildEvent)
	text, errors io.Writer

	line   []byte            // the start of one that has not ended
	builds map[uint64]string // derivations by activity
	counts map[uint64]bool   // activities that count builds
}

func (l *eventLog) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.keep(p)
			break
		}
		line := p[:i]
		if len(l.line) > 0 {
			l.keep(line)
			line = l.line
		}
		l.read(line[:min(len(line), maxEventLine)])
		l.line = l.line[:0]
		p = p[i+1:]
	}
	return n, nil
}

func (l *eventLog) keep(p []byte) {
	l.line = append(l.line, p[:min(len(p), maxEventLine-len(l.line))]...)
}

// close takes in a last line that has no end.
func (l *eventLog) close() {
	if len(l.line) > 0 {
		l.read(l.line)
		l.line = nil
	}
}

func (l *eventLog) read(line []byte) {
	var e struct {
		Action string            `json:"action"`
		ID     uint64            `json:"id"`
		Type   int               `json:"type"`
		Level  int               `json:"level"`
		Msg    string            `json:"msg"`
		Text   string            `json:"text"`
		Fields []json.RawMessage `json:"fields"`
	}
	text, structured := bytes.CutPrefix(line, []byte("@nix "))
	if !structured || json.Unmarshal(text, &e) != nil {
		l.message(string(line), true)
		return
	}
	first := "" // field
	if len(e.Fields) > 0 {
		_ = json.Unmarshal(e.Fields[0], &first)
	}
	num := func(i int) (n int) {
		if i < len(e.Fields) {
			_ = json.Unmarshal(e.Fields[i], &n)
		}
		return n
	}
	switch {
	case e.Action == "msg" && e.Level <= levelInfo:
		l.message(e.Msg, e.Level <= levelWarn)
	case e.Action == "start" && e.Type == activityBuild:
		if l.builds == nil {
			l.builds = map[uint64]string{}
		}
		l.builds[e.ID] = first
		_, _ = io.WriteString(l.text, e.Text+"...\n")
		l.tell(BuildEvent{Kind: BuildStarted, Drv: first})
	case e.Action == "start" && e.Type == activityBuilds:
		if l.counts == nil {
			l.counts = map[uint64]bool{}
		}
		l.counts[e.ID] = true
	case e.Action == "start" && e.Type == activitySubstitute:
		l.tell(BuildEvent{Kind: BuildFetching, Path: first})
	case e.Action == "stop":
		if drv, ok := l.builds[e.ID]; ok {
			delete(l.builds, e.ID)
			l.tell(BuildEvent{Kind: BuildStopped, Drv: drv})
		}
	case e.Action == "result" && e.Type == resultLine && l.builds[e.ID] != "":
		text := strings.TrimSuffix(first, "\n")
		_, _ = io.WriteString(l.text, text+"\n")
		l.tell(BuildEvent{Kind: BuildLine, Drv: l.builds[e.ID], Line: text})
	case e.Action == "result" && e.Type == resultProgress && l.counts[e.ID]:
		l.tell(BuildEvent{Kind: BuildCounts, Done: num(0), Expected: num(1), Running: num(2), Failed: num(3)})
	}
}

func (l *eventLog) message(text string, serious bool) {
	if serious {
		_, _ = io.WriteString(l.errors, text+"\n")
	}
	_, _ = io.WriteString(l.text, text+"\n")
	l.tell(BuildEvent{Kind: BuildMessage, Line: text})
}
