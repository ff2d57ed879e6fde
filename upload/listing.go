package upload

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

const (
	// maxListing bounds a listing, in bytes. A path with more files, about half
	// a million, has none.
	maxListing = 64 << 20
	// maxToken bounds a name or a link's target in a NAR.
	maxToken = 64 << 10
)

// lister makes the listing of a NAR that is written to it, as Nix writes it
// into a binary cache: every file with its size and where in the NAR it is.
// It passes over the files' contents, so it costs next to nothing. It never
// fails; a NAR that it cannot list has no listing.
type lister struct {
	out      []byte
	buildIDs []string

	pos     int64  // in the NAR
	skip    int64  // bytes to pass over
	word    []byte // being gathered
	need    int    // its length, as far as known
	length  int    // of the string in it; -1 while the length itself is read
	state   listerState
	dirs    []bool   // the open directories: whether an entry has been written
	names   []string // of the entries that lead here
	exec    bool
	stopped bool
}

type listerState int

const (
	wantMagic listerState = iota
	wantNode
	wantTypeWord
	wantType
	inRegular
	wantExecValue
	wantContents
	inSymlink
	wantTarget
	wantNodeEnd
	inDirectory
	wantEntry
	wantNameWord
	wantName
	wantNodeWord
	wantEntryEnd
	wantNothing
)

func newLister() *lister { return &lister{need: 8, length: -1} }

// listing returns the listing of a whole NAR, or nil.
func (l *lister) listing() []byte {
	if l == nil || l.stopped || l.state != wantNothing {
		return nil
	}
	return l.out
}

func (l *lister) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !l.stopped {
		if l.skip > 0 {
			k := min(l.skip, int64(len(p)))
			l.skip, l.pos, p = l.skip-k, l.pos+k, p[k:]
			continue
		}
		k := min(l.need-len(l.word), len(p))
		l.word, l.pos, p = append(l.word, p[:k]...), l.pos+int64(k), p[k:]
		if len(l.word) == l.need {
			l.complete()
		}
	}
	return n, nil
}

// complete takes a length or a string that has been gathered.
func (l *lister) complete() {
	if l.length >= 0 {
		l.token(l.word[:l.length])
		l.word, l.need, l.length = l.word[:0], 8, -1
		return
	}
	size := binary.LittleEndian.Uint64(l.word)
	l.word = l.word[:0]
	switch {
	case l.state == wantContents:
		if size > 1<<62 {
			l.stopped = true
			return
		}
		l.regular(int64(size))
		l.skip = (int64(size) + 7) &^ 7
	case size > maxToken:
		l.stopped = true
	case size == 0:
		l.token(nil)
	default:
		l.length = int(size)
		l.need = (l.length + 7) &^ 7
	}
}

// token takes one string of the NAR.
func (l *lister) token(b []byte) {
	expect := func(word string, next listerState) {
		if string(b) != word {
			l.stopped = true
		}
		l.state = next
	}
	switch l.state {
	case wantMagic:
		l.out = append(l.out, `{"root":`...)
		expect("nix-archive-1", wantNode)
	case wantNode:
		expect("(", wantTypeWord)
	case wantTypeWord:
		expect("type", wantType)
	case wantType:
		l.kind(string(b))
	case inRegular:
		switch string(b) {
		case "executable":
			l.exec, l.state = true, wantExecValue
		case "contents":
			l.state = wantContents
		default:
			l.stopped = true
		}
	case wantExecValue:
		expect("", inRegular)
	case inSymlink:
		expect("target", wantTarget)
	case wantTarget:
		l.out = append(l.out, `{"target":`...)
		l.quote(b)
		l.out = append(l.out, `,"type":"symlink"}`...)
		l.state = wantNodeEnd
	case wantNodeEnd:
		expect(")", wantEntryEnd)
		l.up()
	case inDirectory:
		if string(b) == ")" {
			l.out = append(l.out, `},"type":"directory"}`...)
			l.dirs = l.dirs[:len(l.dirs)-1]
			l.state = wantEntryEnd
			l.up()
			return
		}
		expect("entry", wantEntry)
	case wantEntry:
		expect("(", wantNameWord)
	case wantNameWord:
		expect("name", wantName)
	case wantName:
		if l.dirs[len(l.dirs)-1] {
			l.out = append(l.out, ',')
		}
		l.dirs[len(l.dirs)-1] = true
		l.quote(b)
		l.out = append(l.out, ':')
		l.names = append(l.names, string(b))
		l.state = wantNodeWord
	case wantNodeWord:
		expect("node", wantNode)
	case wantEntryEnd:
		expect(")", inDirectory)
	default:
		l.stopped = true
	}
	l.stopped = l.stopped || len(l.out) > maxListing
}

func (l *lister) kind(kind string) {
	switch kind {
	case "regular":
		l.exec, l.state = false, inRegular
	case "symlink":
		l.state = inSymlink
	case "directory":
		l.out = append(l.out, `{"entries":{`...)
		l.dirs = append(l.dirs, false)
		l.state = inDirectory
	default:
		l.stopped = true
	}
}

// regular writes a file, whose contents begin at the current position. The
// fields are in alphabetical order, as Nix has them.
func (l *lister) regular(size int64) {
	l.out = append(l.out, '{')
	if l.exec {
		l.out = append(l.out, `"executable":true,`...)
	}
	l.out = append(l.out, `"narOffset":`...)
	l.out = strconv.AppendInt(l.out, l.pos, 10)
	l.out = append(l.out, `,"size":`...)
	l.out = strconv.AppendInt(l.out, size, 10)
	l.out = append(l.out, `,"type":"regular"}`...)
	l.state = wantNodeEnd
	if id := buildID(l.names); id != "" {
		l.buildIDs = append(l.buildIDs, id)
	}
}

// up leaves the node that has ended.
func (l *lister) up() {
	if len(l.dirs) == 0 { // it was the root
		l.out = append(l.out, `,"version":1}`...)
		l.state = wantNothing
		return
	}
	l.names = l.names[:len(l.names)-1]
}

// buildID returns the ELF build ID that a file with debug symbols is named by:
// lib/debug/.build-id/<2 hex digits>/<38 hex digits>.debug.
func buildID(names []string) string {
	if len(names) != 5 || names[0] != "lib" || names[1] != "debug" || names[2] != ".build-id" ||
		len(names[3]) != 2 || len(names[4]) != 38+len(".debug") || names[4][38:] != ".debug" {
		return ""
	}
	id := names[3] + names[4][:38]
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}

// quote appends a string as Nix's JSON library writes it. What is no UTF-8 has
// no place in JSON.
func (l *lister) quote(b []byte) {
	if !utf8.Valid(b) {
		l.stopped = true
		return
	}
	const digits = "0123456789abcdef"
	l.out = append(l.out, '"')
	for _, c := range b {
		switch {
		case c == '"' || c == '\\':
			l.out = append(l.out, '\\', c)
		case c == '\b':
			l.out = append(l.out, `\b`...)
		case c == '\t':
			l.out = append(l.out, `\t`...)
		case c == '\n':
			l.out = append(l.out, `\n`...)
		case c == '\f':
			l.out = append(l.out, `\f`...)
		case c == '\r':
			l.out = append(l.out, `\r`...)
		case c < ' ':
			l.out = append(l.out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			l.out = append(l.out, c)
		}
	}
	l.out = append(l.out, '"')
}
