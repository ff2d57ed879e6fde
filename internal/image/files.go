package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	// userID is that of the image's user and group, the same as in distroless
	// images.
	userID   = 65532
	homeDir  = "/home/nixoci"
	cacheDir = "/cache"
)

// files is an archive in which nothing tells when and by whom it was made.
type files struct {
	buf bytes.Buffer
	tar *tar.Writer
	err error // the first
}

func newFiles() *files {
	f := &files{}
	f.tar = tar.NewWriter(&f.buf)
	return f
}

func (f *files) add(h tar.Header, text []byte) {
	if f.err == nil {
		f.err = f.tar.WriteHeader(&h)
	}
	if f.err == nil {
		_, f.err = f.tar.Write(text)
	}
}

func (f *files) dir(name string, mode int64, owner int) {
	f.add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (f *files) file(name string, mode int64, text []byte) {
	f.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}, text)
}

func (f *files) bytes() ([]byte, error) {
	if f.err == nil {
		f.err = f.tar.Close()
	}
	return f.buf.Bytes(), f.err
}

// rootFiles is all but the programs: who is who, whom to trust, and what may be
// written to.
func rootFiles() ([]byte, error) {
	certificates, err := certificates()
	if err != nil {
		return nil, err
	}
	f := newFiles()
	f.dir("etc", 0o755, 0)
	f.file("etc/group", 0o644, fmt.Appendf(nil, "root:x:0:\nnixoci:x:%d:\n", userID))
	f.file("etc/passwd", 0o644, fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nnixoci:x:%d:%[1]d:nixoci:%s:/sbin/nologin\n", userID, homeDir))
	f.dir("etc/ssl", 0o755, 0)
	f.dir("etc/ssl/certs", 0o755, 0)
	f.file("etc/ssl/certs/ca-certificates.crt", 0o644, certificates)
	f.dir("home", 0o755, 0)
	f.dir(homeDir[1:], 0o700, userID)
	f.dir(cacheDir[1:], 0o700, userID)
	f.dir("tmp", 0o1777, 0)
	return f.bytes()
}

// certificates are Mozilla's, as the version of a module in go.mod has them: so
// the image is the same wherever it is built.
func certificates() ([]byte, error) {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		c, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates: %w", err)
		}
		fmt.Fprintf(&text, "# %s\n", c.Subject)
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// programFile is the program for one architecture.
func programFile(bin, arch string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(bin, "linux-"+arch, program)) //nolint:gosec // in the folder that the caller names
	if err != nil {
		return nil, err
	}
	f := newFiles()
	f.dir("bin", 0o755, 0)
	f.file("bin/"+program, 0o755, text)
	for _, name := range []string{"gc", "proxy"} {
		f.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: program, Mode: 0o755}, nil)
	}
	return f.bytes()
}
