package discover

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/org/nixoci-action/internal/hint"
)

// reference is a flake reference.
type reference struct {
	url  string
	dir  string // the folder with flake.nix, if that is what it is; the URL is "."
	git  string // the work tree, if it is a folder in one
	file string // flake.nix, relative to the work tree
}

// NoAttribute returns an error for a reference with an attribute, as nix build
// takes it; nil for others. Its hint says what to give instead.
func NoAttribute(ref string) error {
	flake, attr, ok := strings.Cut(ref, "#")
	if !ok {
		return nil
	}
	instead := "--flake " + cmp.Or(flake, ".")
	attr, _, _ = strings.Cut(attr, "^")
	switch parts := strings.Split(attr, "."); {
	case attr == "":
	case strings.HasSuffix(parts[0], "Configurations"): // what follows the name is the same of all
		instead += " --include '" + strings.Join(parts[:min(len(parts), 2)], ".") + "'"
	case len(parts) > 1 && slices.Contains(AllKinds(), Kind(parts[0])):
		instead += " --include '" + attr + "'"
	default:
		instead += " --include 'packages.*." + attr + "'"
	}
	return hint.Wrap(fmt.Errorf("flake reference %q names an attribute", ref), "give "+instead)
}

// parseReference finds out what a reference is. A folder is given to Nix as "."
// in that folder: this is how "nix build" is mostly called, and what Nix makes of
// it depends on its version. As the path of a folder, or as a URL with escapes,
// 2.8 cannot read each name.
func parseReference(ref string) (reference, error) {
	if err := NoAttribute(ref); err != nil {
		return reference{}, err
	}
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
