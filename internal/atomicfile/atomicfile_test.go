package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	for _, text := range []string{"one", "two"} {
		if err := Write(name, ".new-", []byte(text), 0o640, text == "two"); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		info, _ := os.Stat(name)
		if err != nil || string(got) != text || info.Mode().Perm() != 0o640 {
			t.Errorf("got %q, %v, %v", got, err, info.Mode())
		}
	}
	// what is there stays when it cannot be replaced, and nothing else is left
	taken := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(taken, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(taken, ".new-", []byte("three"), 0o600, false); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if err := Write(filepath.Join(dir, "none", "file"), ".new-", nil, 0o600, false); err == nil {
		t.Error("a file was written where there is no folder")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v", entries, err)
	}
}
