package format

import (
	"errors"
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
