package action

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
)

// set hands a value to the runner through one of its files: GITHUB_OUTPUT,
// GITHUB_STATE or GITHUB_ENV. Where the runner has no such file it does nothing.
// The delimiter is a new one each time, so that no value can end itself.
func set(getenv func(string) string, file, name, value string) error {
	path := getenv(file)
	if path == "" {
		return nil
	}
	end := "end-" + rand.Text()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("setting %s: %w", name, err)
	}
	_, err = fmt.Fprintf(f, "%s<<%s\n%s\n%s\n", name, end, value, end)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("setting %s: %w", name, err)
	}
	return nil
}
