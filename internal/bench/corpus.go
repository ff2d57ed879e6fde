package main

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// corpus is real machine code and real text, to cut contents from that
// compress as store paths do: the shared libraries of the machine, and the Go
// installation, which is there on every machine that runs this.
type corpus struct{ code, text []byte }

// newCorpus gathers up to so many bytes of each.
func newCorpus(code, text int) *corpus {
	goroot := runtime.GOROOT() //nolint:staticcheck // run by `go run`, so it is right
	c := &corpus{}
	libraries, _ := filepath.Glob("/usr/lib/*/*.so*")
	c.code = gather(code/2, libraries) // in the order of their names
	c.code = append(c.code, gather(code-len(c.code), append(
		below(filepath.Join(goroot, "bin"), ""), below(filepath.Join(goroot, "pkg", "tool"), "")...))...)
	c.text = gather(text, below(filepath.Join(goroot, "src"), ".go"))
	return c
}

// below lists the files with a suffix below dir, in lexical order.
func below(dir, suffix string) []string {
	var names []string
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(name, suffix) {
			names = append(names, name)
		}
		return nil // what cannot be read is left out
	})
	return names
}

func gather(limit int, files []string) []byte {
	b := make([]byte, 0, limit)
	for _, name := range files {
		st, err := os.Lstat(name)
		if err != nil || !st.Mode().IsRegular() || len(b)+int(st.Size()) > limit {
			continue
		}
		data, err := os.ReadFile(name)
		if err == nil && len(b)+len(data) <= limit {
			b = append(b, data...)
		}
	}
	return b
}

// cut returns up to n bytes from somewhere.
func cut(rng *rand.Rand, from []byte, n int) []byte {
	n = min(n, len(from))
	if n == len(from) {
		return from
	}
	off := rng.IntN(len(from) - n)
	return from[off : off+n]
}
