// Command release packs the commands that were built for each platform and
// writes the checksums by which the action recognises them. The same programs
// give the same archives. scripts/release runs it.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// platforms are Go's and Node's names for what a release has programs for.
var platforms = []struct{ goos, goarch, node string }{
	{"linux", "amd64", "linux-x64"},
	{"linux", "arm64", "linux-arm64"},
	{"darwin", "amd64", "darwin-x64"},
	{"darwin", "arm64", "darwin-arm64"},
}

// file is an archive as launch/launch.js wants it described.
type file struct {
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
}

// release is launch/release.json.
type release struct {
	Version string          `json:"version"`
	Go      string          `json:"go"` // another one makes other programs
	Files   map[string]file `json:"files"`
}

func main() {
	version := flag.String("version", "", "of the release, as v1.2.3")
	golang := flag.String("go", "", "version of Go that made the programs")
	base := flag.String("base", "", "URL of the folder with the archives")
	dir := flag.String("dir", "", "folder for the archives; bin/GOOS-GOARCH in it has the programs")
	flag.Parse()
	if err := pack(*dir, *base, release{Version: *version, Go: *golang, Files: map[string]file{}}); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// pack writes the archives, SHA256SUMS and release.json to dir.
func pack(dir, base string, r release) error {
	var sums strings.Builder
	for _, p := range platforms {
		name := fmt.Sprintf("nixoci-%s-%s.tar.gz", p.goos, p.goarch)
		text, err := archive(filepath.Join(dir, "bin", p.goos+"-"+p.goarch))
		if err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(text))
		if err := write(dir, name, text); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
		r.Files[p.node] = file{URL: base + "/" + name, SHA256: sum}
	}
	description, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(
		write(dir, "SHA256SUMS", []byte(sums.String())),
		write(dir, "release.json", append(description, '\n')))
}

func write(dir, name string, text []byte) error {
	return os.WriteFile(filepath.Join(dir, name), text, 0o644) //nolint:gosec // they are for everybody
}

// archive returns the programs in dir as a compressed archive, in which nothing
// tells when, where and by whom it was made.
func archive(dir string) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	a := tar.NewWriter(z)
	programs, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	if len(programs) == 0 {
		return nil, fmt.Errorf("%s is empty", dir)
	}
	for _, p := range programs {
		text, err := os.ReadFile(filepath.Join(dir, p.Name()))
		if err != nil {
			return nil, err
		}
		if err := a.WriteHeader(&tar.Header{Name: p.Name(), Mode: 0o755, Size: int64(len(text))}); err != nil {
			return nil, err
		}
		if _, err := a.Write(text); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(a.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
