package proxy

import (
	"strconv"
	"strings"
)

// byteRange is a part of a NAR.
type byteRange struct {
	start, length int64 // bytes
	partial       bool  // asked for as a range
}

func whole(size int64) byteRange { return byteRange{length: size} }

// parseRange reads a Range header (RFC 9110, section 14.2) for size bytes. What
// it does not understand, several ranges among it, means the whole, as the RFC
// allows. ok is false if the range lies outside.
func parseRange(header string, size int64) (r byteRange, ok bool) {
	spec, isBytes := strings.CutPrefix(header, "bytes=")
	first, last, isRange := strings.Cut(strings.TrimSpace(spec), "-")
	if !isBytes || !isRange {
		return whole(size), true
	}
	if first == "" { // the last n bytes
		n, err := parsePosition(last)
		switch {
		case err != nil:
			return whole(size), true
		case n == 0:
			return byteRange{}, false
		}
		n = min(n, size)
		return byteRange{size - n, n, true}, true
	}
	start, err := parsePosition(first)
	if err != nil {
		return whole(size), true
	}
	end := size - 1
	if last != "" {
		n, err := parsePosition(last)
		if err != nil || n < start {
			return whole(size), true
		}
		end = min(n, end)
	}
	if start >= size {
		return byteRange{}, false
	}
	return byteRange{start, end - start + 1, true}, true
}

// parsePosition takes digits only, no sign.
func parsePosition(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
