package secret

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/org/nixoci-action/internal/hint"
)

// CheckFile returns an error with a hint if every user of this machine can read
// the file of a secret. It is nil if that cannot be found out, and in a
// container that runs nothing else, whose secrets are often mounted so.
func CheckFile(name string) error {
	if os.Getpid() == 1 {
		return nil
	}
	return checkFile(name)
}

func checkFile(name string) error {
	abs, err := filepath.Abs(name)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil //nolint:nilerr // who reads it will say so
	}
	for p, need := abs, os.FileMode(0o4); ; p, need = filepath.Dir(p), 0o1 {
		st, err := os.Stat(p)
		if err != nil || p == abs && !st.Mode().IsRegular() || st.Mode().Perm()&need == 0 {
			return nil //nolint:nilerr // the same
		}
		if p == filepath.Dir(p) {
			break
		}
	}
	return hint.Wrap(fmt.Errorf("every user of this machine can read %s, which holds a secret", name), "chmod 600 "+name)
}
