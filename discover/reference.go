package discover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/org/nixoci-action/internal/hint"
)

// reference is a flake reference.
type reference struct {
	url  string
	attr Attr   // what follows the "#", or nil
	dir  string // the folder with flake.nix, if that is what it is; the URL is "."
	git  string // the work tree, if it is a folder in one
	file string // flake.nix, relative to the work tree
}

// parseReference finds out what a reference is. A folder is given to Nix as "."
// in that folder: this is how "nix build" is mostly called, and what Nix makes of
// it depends on its version. As the path of a folder, or as a URL with escapes,
// 2.8 cannot read each name.
func parseReference(ref string) (r reference, err error) {
	url, fragment, _ := strings.Cut(ref, "#")
	if url == "" && fragment != "" {
		url = "."
	}
	if r, err = parseURL(url); err != nil || fragment == "" {
		return r, err
	}
	if strings.Contains(fragment, "^") {
		err := fmt.Errorf("flake reference %q chooses outputs of a derivation", ref)
		return r, hint.Wrap(err, "leave out what follows the ^: all outputs are published")
	}
	if r.attr, err = splitAttr(fragment); err != nil {
		err = fmt.Errorf("flake reference %q: %w", ref, err)
	}
	return r, err
}

func parseURL(ref string) (reference, error) {
	switch dir, isPath := strings.CutPrefix(ref, "path:"); {
	case ref == "":
		return reference{}, errors.New("the flake reference is empty")
	case isPath:
		dir, _, _ = strings.Cut(dir, "?")
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			err := fmt.Errorf("flake reference %q copies .git, and all that Git ignores, into the store", ref)
			return reference{}, hint.Wrap(err, fmt.Sprintf("give the folder itself: --flake %s", dir))
		}
		return reference{url: ref}, nil
	case ref[0] != '.' && ref[0] != '/':
		return reference{url: ref}, nil
	}
	path, query, _ := strings.Cut(ref, "?")
	if query != "" {
		return reference{url: ref}, nil // "./x?dir=sub": Nix's own business
	}
	return folderReference(path)
}

func folderReference(path string) (reference, error) {
	fail := func(err error) (reference, error) {
		return reference{}, fmt.Errorf("looking for the flake in %s: %w", path, err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return fail(err)
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return fail(err)
	}
	if info, err := os.Stat(abs); err != nil {
		return fail(err)
	} else if !info.IsDir() {
		err := fmt.Errorf("flake reference %q is not a folder", path)
		return reference{}, hint.Wrap(err, "give the folder that flake.nix is in")
	}
	// As Nix does, look for flake.nix upwards as far as the work tree goes.
	dir := abs
	for !exists(dir, "flake.nix") {
		if parent := filepath.Dir(dir); parent != dir && !exists(dir, ".git") {
			dir = parent
			continue
		}
		return fail(fmt.Errorf("there is no flake.nix: %w", fs.ErrNotExist))
	}
	r := reference{url: ".", dir: dir}
	for top := dir; ; top = filepath.Dir(top) {
		if exists(top, ".git") {
			r.git, r.file = top, strings.TrimPrefix(filepath.Join(dir, "flake.nix"), strings.TrimSuffix(top, "/")+"/")
			return r, nil
		}
		if top == filepath.Dir(top) {
			return r, nil
		}
	}
}

// hint adds what is usually wrong when Nix cannot read a folder.
func (r reference) hint(err error) error {
	if r.git == "" {
		return err
	}
	if info, serr := os.Lstat(filepath.Join(r.git, ".git")); serr == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return hint.Wrap(err, fmt.Sprintf("the work tree belongs to another user; if it is yours: git config --global --add safe.directory %s", r.git))
		}
	}
	if !tracked(filepath.Join(r.git, ".git", "index"), r.file) {
		return hint.Wrap(err, fmt.Sprintf("Nix sees only files that Git tracks; add flake.nix, and what it reads: git -C %s add %s", r.git, r.file))
	}
	return err
}

// tracked reports whether a Git index has a file. It is for a hint only, so it
// says yes where it is not sure.
func tracked(index, file string) bool {
	b, err := os.ReadFile(index)
	if errors.Is(err, fs.ErrNotExist) {
		// nothing was ever added; or .git is a file
		info, err := os.Stat(filepath.Dir(index))
		return err != nil || !info.IsDir()
	}
	if err != nil || len(b) < 12 || string(b[:4]) != "DIRC" || binary.BigEndian.Uint32(b[4:]) > 3 {
		return true // version 4 compresses the names
	}
	return bytes.Contains(b, []byte(file+"\x00"))
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}
