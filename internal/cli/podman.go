package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// podmanLogin finds what `podman login` has stored, as containers-auth.json(5)
// says. authn.DefaultKeychain knows these files, too, but looks at them only
// where docker has none, whatever that has.
type podmanLogin struct{ getenv func(string) string }

func (p podmanLogin) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return p.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (p podmanLogin) ResolveContext(_ context.Context, r authn.Resource) (authn.Authenticator, error) {
	for _, file := range p.files() {
		auth, err := podmanAuth(file, r)
		if err != nil {
			return nil, fmt.Errorf("reading podman's logins: %w", err)
		}
		if auth != authn.Anonymous {
			return auth, nil
		}
	}
	return authn.Anonymous, nil
}

// files are where podman looks, in its order.
func (p podmanLogin) files() (files []string) {
	if f := p.getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []string{f}
	}
	if dir := p.getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	conf := p.getenv("XDG_CONFIG_HOME")
	if home := p.getenv("HOME"); conf == "" && home != "" {
		conf = filepath.Join(home, ".config")
	}
	if conf != "" {
		files = append(files, filepath.Join(conf, "containers/auth.json"))
	}
	return files
}

// podmanAuth looks for a repository, what it is below, and its registry.
func podmanAuth(file string, r authn.Resource) (authn.Authenticator, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conf, err := config.LoadFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var keys []string
	for key := r.String(); key != "." && key != "/"; key = path.Dir(key) {
		keys = append(keys, key)
	}
	if r.RegistryStr() == name.DefaultRegistry {
		keys = append(keys, "docker.io", authn.DefaultAuthKey)
	}
	for _, key := range keys {
		// asked for what it does not have, it takes another's of the same host
		if _, ok := conf.AuthConfigs[key]; !ok && conf.CredentialHelpers[key] == "" {
			continue
		}
		c, err := conf.GetCredentialsStore(key).Get(key) // GetAuthConfig knows docker.io by another name
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		c.ServerAddress = "" // which is always set
		if c != (types.AuthConfig{}) {
			return authn.FromConfig(authn.AuthConfig{
				Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
			}), nil
		}
	}
	return authn.Anonymous, nil
}
