// Package atomicfile replaces files as a whole. Who reads one sees the old
// contents or the new ones, whatever happens meanwhile.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes data the contents of the file name, whose folder must exist. What an
// interruption leaves is a file in that folder whose name begins with prefix. With
// sync, the contents are on the disk before the name is.
func Write(name, prefix string, data []byte, mode fs.FileMode, sync bool) error {
	f, err := os.CreateTemp(filepath.Dir(name), prefix+"*")
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return Commit(f, name, mode, sync)
}

// Commit gives a temporary file of the same folder its final name, in one step,
// and closes it. If that fails the temporary file is removed.
func Commit(f *os.File, name string, mode fs.FileMode, sync bool) error {
	err := f.Chmod(mode)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
