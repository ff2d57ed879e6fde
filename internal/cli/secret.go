package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/secret"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/internal/ui"
)

// secrets are the environment variables whose value may stand in a file that
// the variable NAME_FILE names: what systemd, Docker and Kubernetes give a
// service are files, which, unlike an environment, only the service can read.
var secrets = []string{EnvPrefix + "PASSWORD", "GITHUB_TOKEN", signingKey}

const signingKey = "NIX_SIGNING_KEY"

// jobSecrets are other variables with secrets of a job.
var jobSecrets = []string{
	"GH_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
	"CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "CI_DEPLOY_PASSWORD",
}

// Secrets are what a command has in hand that it must not publish or print: the
// variables that hold secrets. What it reads elsewhere, as keys from files, it
// adds itself; see also Remember.
func Secrets(getenv func(string) string) *secret.Set {
	s := &secret.Set{}
	for _, name := range slices.Concat(secrets, jobSecrets) {
		if name == signingKey {
			s.AddKeys(getenv(name))
			continue
		}
		s.Add("the value of "+name, getenv(name))
	}
	return s
}

// Remember returns a keychain whose credentials are added to s when they are
// used.
func Remember(k authn.Keychain, s *secret.Set) authn.Keychain { return remembering{k, s} }

type remembering struct {
	authn.Keychain
	secrets *secret.Set
}

func (r remembering) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return r.ResolveContext(context.Background(), target)
}

func (r remembering) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.Resolve(ctx, r.Keychain, target)
	if err != nil || auth == authn.Anonymous {
		return auth, err
	}
	cfg, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, err
	}
	of := " for " + target.RegistryStr()
	r.secrets.Add("the password"+of, cfg.Password)
	r.secrets.Add("the token"+of, cfg.IdentityToken, cfg.RegistryToken)
	if cfg.Password != "" { // as docker and podman keep it
		r.secrets.Add("the login"+of, base64.StdEncoding.EncodeToString([]byte(cfg.Username+":"+cfg.Password)))
	}
	return authn.FromConfig(*cfg), nil
}

// SigningKey is the variable with secret keys.
var SigningKey = Variable{Name: signingKey, Usage: "secret signing keys themselves, one a line, in addition to --sign-key-file"}

// SigningKeys reads secret keys from files and from a text. They are added to what
// is kept secret, all of that is taken out of a job's log, and a file that others
// can read is warned of.
func SigningKeys(files []string, text string, getenv func(string) string, secrets *secret.Set, msg *ui.Messages) (signing.Keys, error) {
	keys, err := signing.Load(files, text)
	for _, k := range keys {
		secrets.AddKeys(k.String())
	}
	for _, s := range secrets.Texts() {
		msg.Mask(s)
	}
	if err != nil {
		return nil, err
	}
	for _, err := range SecretFiles(getenv, files...) {
		msg.Warn(err)
	}
	return keys, nil
}

// LogLevel is from where on a command without a log of its own tells what it does.
func LogLevel(verbose bool) slog.Level {
	if verbose {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// SecretFiles returns what is to be said about the files of secrets that a
// command was given, those of WithSecretFiles among them.
func SecretFiles(getenv func(string) string, files ...string) []error {
	for _, name := range secrets {
		files = append(files, getenv(name+"_FILE"))
	}
	var errs []error
	for _, f := range files {
		if f == "" {
			continue
		}
		if err := secret.CheckFile(f); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

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
