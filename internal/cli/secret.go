package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/org/nixoci-action/internal/hint"
)

// secrets are the environment variables whose value may stand in a file that
// the variable NAME_FILE names: what systemd, Docker and Kubernetes give a
// service are files, which, unlike an environment, only the service can read.
var secrets = []string{EnvPrefix + "PASSWORD", "GITHUB_TOKEN", "NIX_SIGNING_KEY"}

// secretLimit is the size in bytes that the file of a secret may have.
const secretLimit = 64 << 10

// WithSecretFiles returns getenv with the secrets that are in files, without
// the newline at their end. A variable that is set wins over its file, which is
// not read then. Errors have the status ExitUsage.
func WithSecretFiles(getenv func(string) string) (func(string) string, error) {
	found := map[string]string{}
	var errs []error
	for _, name := range secrets {
		file := getenv(name + "_FILE")
		if file == "" || getenv(name) != "" {
			continue
		}
		value, err := readSecret(file)
		if err != nil {
			errs = append(errs, hint.Wrap(fmt.Errorf("reading the file that %s_FILE names: %w", name, err), "it must hold the value of "+name+", and be readable for this user"))
		}
		found[name] = value
	}
	if len(errs) > 0 {
		return nil, WithStatus(errors.Join(errs...), ExitUsage)
	}
	return func(name string) string {
		if value, ok := found[name]; ok {
			return value
		}
		return getenv(name)
	}, nil
}

func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, secretLimit+1))
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case len(text) > secretLimit:
		return "", fmt.Errorf("%s has more than %d bytes", file, secretLimit)
	case value == "":
		return "", fmt.Errorf("%s is empty", file)
	}
	return value, nil
}

// mayBeFile tells whether a variable has a form with a file, for the help.
func mayBeFile(name string) bool { return slices.Contains(secrets, name) }
