package cli

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

// A login of podman counts for its host, whatever docker's file has for others.
// Where both know the host, docker's counts, unless a file is named.
func TestPodmanLogin(t *testing.T) {
	auths := func(logins ...string) string { // "HOST USER"
		var all []string
		for _, l := range logins {
			host, user, _ := strings.Cut(l, " ")
			all = append(all, fmt.Sprintf("%q:{\"auth\":%q}", host, base64.StdEncoding.EncodeToString([]byte(user+":secret"))))
		}
		return `{"auths":{` + strings.Join(all, ",") + `}}`
	}
	const host = "registry.example.org"
	for _, tc := range []struct {
		name, docker, named, runtime, config string // the files; "" if there is none
		repo, want                           string
	}{
		{name: "nobody", want: ":"},
		{name: "runtime", runtime: auths(host + " p"), want: "p:secret"},
		{name: "config", config: auths(host + " p"), want: "p:secret"},
		{name: "named", named: auths(host + " p"), runtime: auths(host + " q"), want: "p:secret"},
		{name: "docker's is empty", docker: "{}", runtime: auths(host + " p"), want: "p:secret"},
		{name: "docker's has others", docker: auths("ghcr.io x"), runtime: auths(host + " p"), want: "p:secret"},
		{name: "docker's has others, named", docker: auths("ghcr.io x"), named: auths(host + " p"), want: "p:secret"},
		{name: "both", docker: auths(host + " d"), runtime: auths(host + " p"), want: "d:secret"},
		{name: "both, named", docker: auths(host + " d"), named: auths(host + " p"), want: "p:secret"},
		{name: "named without it", docker: auths(host + " d"), named: auths("ghcr.io x"), want: "d:secret"},
		{name: "first without it", runtime: auths("ghcr.io x"), config: auths(host + " p"), want: "p:secret"},
		{name: "below", docker: "{}", runtime: auths(host+" p", host+"/team q", host+"/other r"), want: "q:secret"},
		{name: "beside", docker: "{}", runtime: auths(host + "/other p"), want: ":"},
		{name: "repository", docker: "{}", runtime: auths(host+"/team q", host+"/team/cache r"), want: "r:secret"},
		{name: "another host", docker: "{}", runtime: auths("example.org p"), want: ":"},
		{name: "docker.io", docker: "{}", runtime: auths("docker.io p"), repo: "index.docker.io/team/cache", want: "p:secret"},
		{name: "damaged", docker: "{}", runtime: "{", want: "reading podman's logins: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file := func(at, content string) string {
				if content == "" {
					return ""
				}
				at = filepath.Join(dir, at)
				if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				return at
			}
			file("docker/config.json", tc.docker)
			file("run/containers/auth.json", tc.runtime)
			file("home/.config/containers/auth.json", tc.config)
			vars := map[string]string{
				"DOCKER_CONFIG": filepath.Join(dir, "docker"), "XDG_RUNTIME_DIR": filepath.Join(dir, "run"), "XDG_CONFIG_HOME": "",
				"HOME": filepath.Join(dir, "home"), "REGISTRY_AUTH_FILE": file("named.json", tc.named),
			}
			for k, v := range vars {
				t.Setenv(k, v)
			}
			if tc.repo == "" {
				tc.repo = host + "/team/cache"
			}
			repo, err := name.NewRepository(tc.repo)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			auth, err := Keychain(os.Getenv).Resolve(repo)
			if err != nil {
				got = err.Error()
			} else if c, err := auth.Authorization(); err != nil {
				t.Fatal(err)
			} else {
				got = c.Username + ":" + c.Password
			}
			if got != tc.want && (tc.name != "damaged" || !strings.HasPrefix(got, tc.want)) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}
