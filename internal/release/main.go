// Command release packs the program that was built for each platform, with its
// man pages and completions, and writes the checksums by which the action recognises them. The same programs
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
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const program = "nixoci"

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
	// Program is the checksum of the program in it.
	Program string `json:"program"`
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
	dir := flag.String("dir", "", "folder for the archives; bin/GOOS-GOARCH in it has the program, share what goes with it")
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
		bin := filepath.Join(dir, "bin", p.goos+"-"+p.goarch)
		unpacked, err := os.ReadFile(filepath.Join(bin, program))
		if err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		text, err := archive(bin, filepath.Join(dir, "share"))
		if err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(text))
		if err := write(dir, name, text); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
		r.Files[p.node] = file{URL: base + "/" + name, SHA256: sum, Program: fmt.Sprintf("%x", sha256.Sum256(unpacked))}
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

// archive returns the program in bin, and what is in share below that name, as a
// compressed archive, in which nothing tells when, where and by whom it was made.
func archive(bin, share string) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	a := tar.NewWriter(z)
	add := func(file, name string, mode int64) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := a.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err = a.Write(text)
		return err
	}
	if err := add(filepath.Join(bin, program), program, 0o755); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(share, func(file string, d fs.DirEntry, err error) error { // in the order of the names
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(filepath.Dir(share), file)
		if err != nil {
			return err
		}
		return add(file, filepath.ToSlash(name), 0o644)
	})
	if err := errors.Join(err, a.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
