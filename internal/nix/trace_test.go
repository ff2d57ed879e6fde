package nix

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// What an expression says is told apart from the rest of the log, however the log
// is cut into writes.
func TestTraceLog(t *testing.T) {
	t.Parallel()
	const log = "warning: x\ntrace: MARK{\"a\":1}\ntrace: other\npartial trace: MARK{\"b\":2}\nMAR trace: MARK\nerror: end\ntrace: MARK cut short"
	for size := 1; size <= len(log); size++ {
		var rest strings.Builder
		var told []string
		l := &traceLog{mark: []byte("MARK"), rest: &rest, tell: func(line []byte) { told = append(told, string(line)) }}
		for part := range slices.Chunk([]byte(log), size) {
			if n, err := l.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		l.close()
		if want := []string{`{"a":1}`, `{"b":2}`, ""}; !slices.Equal(told, want) {
			t.Errorf("in parts of %d: got %q, want %q", size, told, want)
		}
		if want := "warning: x\ntrace: other\npartial \nMAR \nerror: end\n"; rest.String() != want {
			t.Errorf("in parts of %d: got the log %q, want %q", size, rest.String(), want)
		}
	}
}

// A process takes memory, and what is available is known.
func TestMemory(t *testing.T) {
	t.Parallel()
	sizes := Resident([]Process{{os.Getpid()}, {}})
	if len(sizes) != 2 || sizes[0] < 1<<20 || sizes[1] != 0 {
		t.Errorf("got %d", sizes)
	}
	if n := AvailableMemory(); n < 1<<20 {
		t.Errorf("got %d bytes available", n)
	}
}
