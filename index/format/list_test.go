package format

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTooNew(t *testing.T) {
	l, err := EncodeSegmentList(SegmentList{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := decompress(l, MaxSegmentList)
	if err != nil {
		t.Fatal(err)
	}
	newer := compress([]byte(strings.Replace(string(raw), `"minReader":1`, `"minReader":2`, 1)))
	var tooNew *TooNewError
	if _, err := ParseSegmentList(newer); !errors.As(err, &tooNew) {
		t.Errorf("got %v, want *TooNewError", err)
	}
}

// The compressed form comes from the network, too.
func FuzzSegmentBlob(f *testing.F) {
	f.Add(compress([]byte(`{"version":1,"minReader":1}` + "\n")))
	f.Fuzz(func(_ *testing.T, blob []byte) { _, _ = ParseSegment(blob, func(int64) error { return nil }) })
}

func FuzzSegmentList(f *testing.F) {
	f.Add([]byte(`{"version":1,"minReader":1,"segments":[{"tag":"segment-x","manifest":"sha256:` + strings.Repeat("0", 64) + `","entries":"sha256:` + strings.Repeat("1", 64) + `","entriesSize":3,"count":1,"created":"2026-01-01T00:00:00Z"}],"config":{"publicKeys":["a:` + strings.Repeat("A", 43) + `="]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ParseSegmentList(compress(raw))
		if err != nil {
			return
		}
		b, err := EncodeSegmentList(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSegmentList(b)
		if err != nil || len(again.Segments) != len(l.Segments) || fmt.Sprint(again.Config) != fmt.Sprint(l.Config) {
			t.Errorf("got %+v, %v, want %+v", again, err, l)
		}
	})
}
