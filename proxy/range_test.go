package proxy

import (
	"fmt"
	"testing"
)

func TestParseRange(t *testing.T) {
	all := byteRange{0, 100, false}
	for _, tc := range []struct {
		header string
		want   byteRange
		ok     bool
	}{
		{"", all, true},
		{"bytes=0-", byteRange{0, 100, true}, true},
		{"bytes=40-", byteRange{40, 60, true}, true},
		{"bytes=99-", byteRange{99, 1, true}, true},
		{"bytes=10-19", byteRange{10, 10, true}, true},
		{"bytes=10-1000", byteRange{10, 90, true}, true},
		{"bytes=-30", byteRange{70, 30, true}, true},
		{"bytes=-1000", byteRange{0, 100, true}, true},
		{"bytes=100-", byteRange{}, false},
		{"bytes=500-600", byteRange{}, false},
		{"bytes=-0", byteRange{}, false},
		// not understood, hence the whole
		{"bytes=20-10", all, true},
		{"bytes=0-1,5-6", all, true},
		{"bytes=+1-2", all, true},
		{"bytes=--5", all, true},
		{"bytes=", all, true},
		{"bytes=-", all, true},
		{"bytes=99999999999999999999-", all, true},
		{"lines=1-2", all, true},
	} {
		got, ok := parseRange(tc.header, 100)
		if got != tc.want || ok != tc.ok {
			t.Errorf("parseRange(%q): got %+v, %v; want %+v, %v", tc.header, got, ok, tc.want, tc.ok)
		}
	}
}

// A range lies within the file, and what a client is told of it asks for the
// same again.
func FuzzParseRange(f *testing.F) {
	for _, header := range []string{"bytes=0-", "bytes=10-19", "bytes=90-1000", "bytes=-30", "bytes=-1000", "bytes=-0", "bytes=99999999999999999999-", "bytes=1-2,5-6", "lines=1-2"} {
		f.Add(header, int64(100))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size <= 0 {
			return
		}
		r, ok := parseRange(header, size)
		switch {
		case !ok:
			if r != (byteRange{}) {
				t.Errorf("%q of %d: got %+v, refused", header, size, r)
			}
		case r.start < 0 || r.length <= 0 || r.length > size-r.start, !r.partial && r != whole(size):
			t.Errorf("%q of %d: got %+v", header, size, r)
		case r.partial:
			if again, ok := parseRange(fmt.Sprintf("bytes=%d-%d", r.start, r.start+r.length-1), size); !ok || again != r {
				t.Errorf("%q of %d: got %+v, want %+v", header, size, again, r)
			}
		}
	})
}
