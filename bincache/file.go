// Package bincache says what a Nix binary cache is. It knows its files and
// their URLs, the lines of a narinfo and of nix-cache-info, the compressions of
// NARs, how hashes are written, and what a Nix configuration says of a cache.
// It asks nobody for anything.
package bincache

import "strings"

// Kind tells what a file of a binary cache is. The zero value is none.
type Kind uint8

const (
	// CacheInfo is nix-cache-info.
	CacheInfo Kind = iota + 1
	// Narinfo is a path's narinfo. Name is the hash part.
	Narinfo
	// Listing is of the files in a path's NAR. Name is the hash part.
	Listing
	// NAR is a NAR. Name is its file hash without the algorithm, Detail one of
	// the extensions of Compression.
	NAR
	// Log is a build's log. Name is the derivation's base name, Nix asks for it
	// with and without ".drv".
	Log
	// Realisation is one of a content-addressed derivation, as Nix up to 2.34
	// names it. Name is its ID.
	Realisation
	// BuildTrace is the same as Nix since 2.35 names it. Name is the
	// derivation's base name, Detail the output.
	BuildTrace
	// DebugInfo says where debug symbols are. Name is a build ID, to which Nix
	// appends ".debug".
	DebugInfo

	// Those that follow are no files of Nix's: the project's proxy has them.

	// PublicKey has the cache's public keys.
	PublicKey
	// Status is the state of the proxy.
	Status
	// Refresh is what makes it read the index.
	Refresh
	// UpstreamNAR is a NAR that another cache has. Name tells the cache, Detail
	// is "<hash part>-<tag>".
	UpstreamNAR

	kinds = iota + 1
)

// form is how the path of a kind is made: before, name, between, detail, after.
// A kind without a name has one file. If there is an extension, it is the detail.
type form struct {
	kind, before, between, after string
	extension                    bool
}

func (m *form) named() bool { return m.after != "" || strings.HasSuffix(m.before, "/") }

var forms = [kinds]form{
	CacheInfo:   {kind: "cache info", before: "nix-cache-info"},
	Narinfo:     {kind: "narinfo", after: ".narinfo"},
	Listing:     {kind: "listing", after: ".ls"},
	NAR:         {kind: "NAR", before: "nar/", extension: true},
	Log:         {kind: "log", before: "log/"},
	Realisation: {kind: "realisation", before: "realisations/", after: ".doi"},
	BuildTrace:  {kind: "build trace", before: "build-trace-v2/", between: "/", after: ".doi"},
	DebugInfo:   {kind: "debug info", before: "debuginfo/"},
	PublicKey:   {kind: "public key", before: "public-key"},
	Status:      {kind: "status", before: "_status"},
	Refresh:     {kind: "refresh", before: "_refresh"},
	UpstreamNAR: {kind: "upstream NAR", before: "upstream/", between: "/", after: ".nar"},
}

// Kinds are all kinds. Whoever has a case for each is tested with them.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds-1)
	for k := Kind(1); k < kinds; k++ {
		all = append(all, k)
	}
	return all
}

func (k Kind) String() string { return forms[k].kind }

// File is a file of a binary cache. The zero value is none.
type File struct {
	Kind Kind
	// Name tells files of a kind apart, Detail says more; see the kinds. Neither
	// has a slash in it. What else they are is for who uses them to check.
	Name, Detail string
}

// Path is where the file is in its cache, without a slash at the start.
func (f File) Path() string {
	m := &forms[f.Kind]
	return m.before + f.Name + m.between + f.Detail + m.after
}

// Parse tells which file a path names, which has no slash at its start. The
// zero File means that no binary cache has such a file.
func Parse(path string) File {
	for k := Kind(1); k < kinds; k++ {
		if f, ok := forms[k].parse(path); ok {
			f.Kind = k
			return f
		}
	}
	return File{}
}

// ParseURLPath is Parse for the path of a URL, which has a slash at its start.
func ParseURLPath(path string) File {
	path, ok := strings.CutPrefix(path, "/")
	if !ok {
		return File{}
	}
	return Parse(path)
}

func (m *form) parse(path string) (f File, ok bool) {
	if !m.named() {
		return f, path == m.before
	}
	if len(path) < len(m.before)+len(m.after) || !strings.HasPrefix(path, m.before) || !strings.HasSuffix(path, m.after) {
		return f, false
	}
	f.Name, ok = path[len(m.before):len(path)-len(m.after)], true
	switch {
	case m.between != "":
		f.Name, f.Detail, ok = strings.Cut(f.Name, m.between)
	case m.extension:
		if dot := strings.IndexByte(f.Name, '.'); dot >= 0 {
			f.Name, f.Detail = f.Name[:dot], f.Name[dot:]
		}
	}
	return f, ok && strings.IndexByte(f.Name, '/') < 0 && strings.IndexByte(f.Detail, '/') < 0
}

// maxParts is the number of parts, between slashes, that a file's path may have.
const maxParts = 3

// Split divides a path below which caches are, each under a name of any number
// of parts: the name ends where the path of a file begins. The zero File means
// that there is none. A path with an empty part has neither.
func Split(path string) (cache string, f File) {
	if path == "" || path[0] == '/' || path[len(path)-1] == '/' || strings.Contains(path, "//") {
		return "", File{}
	}
	at := len(path)
	for range maxParts {
		at = strings.LastIndexByte(path[:at], '/')
		if f = Parse(path[at+1:]); f.Kind != 0 {
			return path[:max(at, 0)], f
		}
		if at < 0 {
			break
		}
	}
	return "", File{}
}
