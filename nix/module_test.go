package nix

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const key = "my-cache-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

const signed = `cache = "ghcr.io/a/b/nix-cache"; publicKeys = [ "` + key + `" ];`

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func TestSettings(t *testing.T) {
	t.Parallel()
	for _, module := range []string{"nixos.nix", "darwin.nix", "home-manager.nix"} {
		t.Run(module, func(t *testing.T) {
			t.Parallel()
			for options, want := range map[string]map[string]any{
				signed: {
					"extra-substituters": []any{"http://127.0.0.1:37515"}, "extra-trusted-public-keys": []any{key}, "fallback": true,
				},
				`cache = "oci:/c"; requireSignatures = false; listenAddress = "::"; port = 1;`: {
					"extra-substituters": []any{"http://[::1]:1?trusted=1"}, "extra-trusted-public-keys": []any{}, "fallback": true,
				},
				signed + `listenAddress = "0.0.0.0";`:     {"extra-substituters": []any{"http://127.0.0.1:37515"}, "extra-trusted-public-keys": []any{key}, "fallback": true},
				signed + `listenAddress = "192.168.1.2";`: {"extra-substituters": []any{"http://192.168.1.2:37515"}, "extra-trusted-public-keys": []any{key}, "fallback": true},
				`cache = "oci:/c"; configureNix = false;`: {},
			} {
				if got := evaluate(t, module, "x86_64-linux", options); !reflect.DeepEqual(got.Settings, want) || len(got.Failed) > 0 {
					t.Errorf("%s\ngot  %v, %q\nwant %v", options, got.Settings, got.Failed, want)
				}
			}

			// What the user says stands, and a Nix that is configured elsewhere is left alone.
			got := evaluateConfig(t, module, "x86_64-linux", `nix.settings = { fallback = false; extra-substituters = [ "https://x" ]; };
				services.nixoci-proxy = { enable = true; package = "/p"; `+signed+` };`)
			if list, _ := got.Settings["extra-substituters"].([]any); got.Settings["fallback"] != false || len(list) != 2 {
				t.Errorf("got %v", got.Settings)
			}
			got = evaluateConfig(t, module, "x86_64-linux", `nix.enable = false; services.nixoci-proxy = { enable = true; package = "/p"; cache = "oci:/c"; };`)
			if len(got.Settings) > 0 || len(got.Failed) > 0 {
				t.Errorf("though Nix is not to be configured: %v, %q", got.Settings, got.Failed)
			}
			got = evaluateConfig(t, module, "x86_64-linux", "")
			if got.Service != nil || got.UserService != nil || got.Daemon != nil || got.Agent != nil || len(got.Settings) > 0 || len(got.Users.KnownUsers) > 0 {
				t.Errorf("though it is not enabled: %+v", got)
			}
		})
	}
}

func TestAssertions(t *testing.T) {
	t.Parallel()
	secret := "my-cache-1:" + strings.Repeat("A", 86) + "=="
	for options, want := range map[string]string{
		`cache = "oci:/c";`: "publicKeys is empty",
		`cache = "oci:/c"; publicKeys = [ "` + secret + `" ];`:          "If it is a secret key",
		`cache = "oci:/c"; publicKeys = [ "` + key + ` ` + key + `" ];`: "no public key",
		signed + `username = "me";`:                                     "both username and passwordFile",
		signed + `passwordFile = "/run/p";`:                             "both username and passwordFile",
		signed + `tokenFile = "${builtins.storeDir}/x";`:                "a secret in the Nix store",
		signed + `dockerConfigFile = "/run/docker";`:                    "must have the name config.json",
		signed + `dockerConfigFile = "/etc/x/config.json";`:             "",
		signed + `username = "me"; passwordFile = "/run/p";`:            "",
		`cache = "oci:/c"; requireSignatures = false;`:                  "",
	} {
		for _, module := range []string{"nixos.nix", "darwin.nix", "home-manager.nix"} {
			got := evaluate(t, module, "x86_64-linux", options).Failed
			if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
				t.Errorf("%s, %s\ngot %q, want %q", module, options, got, want)
			}
		}
	}
	for options, want := range map[string]string{
		`publicKeys = [ "` + key + `" ];`:     "services.nixoci-proxy.cache is used but not defined",
		`cache = [ ];`:                        "services.nixoci-proxy.cache is not of type",
		signed + `port = 65536;`:              "not of type port",
		`cache = "oci:/c"; publicKeys = "x";`: "not of type listOf str",
		signed + `tokenFile = "secret";`:      "not of type nullOr path",
		signed + `nokey = 1;`:                 "services.nixoci-proxy.nokey does not exist",
	} {
		if out, err := tryEvaluate(t, "nixos.nix", "x86_64-linux", "services.nixoci-proxy = { enable = true; package = \"/p\"; "+options+"};"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v, want %q", options, out, err, want)
		}
	}
}

// The options of nixcache-oci's module do what they did, and say what they are now.
func TestOldOptions(t *testing.T) {
	t.Parallel()
	got := evaluateConfig(t, "nixos.nix", "x86_64-linux", `services.nixoci-proxy.package = "/p"; services.nixcache-proxy = {
		enable = true; repo = "Owner/Repo"; port = 38000; listenAddress = "0.0.0.0"; publicKey = "`+key+`"; requireSignatures = true; };`)
	if len(got.Failed) > 0 || len(got.Warnings) != 6 {
		t.Errorf("got %q, and the warnings %q", got.Failed, got.Warnings)
	}
	if args := arguments(t, got.Service); !reflect.DeepEqual(args[:8], []string{"/p/bin/nixoci", "proxy", "--listen", "0.0.0.0:38000", "--refresh", "5m", "--cache", "ghcr.io/owner/repo/nix-cache"}) {
		t.Errorf("got %q", args)
	}
	if keys := got.Settings["extra-trusted-public-keys"]; !reflect.DeepEqual(keys, []any{key}) {
		t.Errorf("got the keys %v", keys)
	}

	got = evaluateConfig(t, "nixos.nix", "x86_64-linux", `services.nixoci-proxy.package = "/p"; services.nixcache-proxy = { enable = true; repo = "a/b"; publicKey = ""; requireSignatures = false; };`)
	if urls := got.Settings["extra-substituters"]; len(got.Failed) > 0 || !reflect.DeepEqual(urls, []any{"http://127.0.0.1:37515?trusted=1"}) {
		t.Errorf("got %q, and the substituters %v", got.Failed, urls)
	}
	const two = `"` + key + `\n" + "other-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= "`
	got = evaluateConfig(t, "nixos.nix", "x86_64-linux", `services.nixoci-proxy.package = "/p"; services.nixcache-proxy = { enable = true; publicKey = `+two+`; };`)
	if keys := got.Settings["extra-trusted-public-keys"]; len(got.Failed) > 0 || !reflect.DeepEqual(keys, []any{key, "other-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}) {
		t.Errorf("got %q, and the keys %v", got.Failed, keys)
	}
	if args := strings.Join(arguments(t, got.Service), " "); !strings.Contains(args, "--cache ghcr.io/cmspam/nixcache-oci/nix-cache") || !strings.Contains(args, "--upstream https://cache.nixos.org") {
		t.Errorf("what was left out: got %s", args)
	}
	if got := evaluate(t, "nixos.nix", "x86_64-linux", signed); len(got.Warnings) > 0 {
		t.Errorf("without old options: %q", got.Warnings)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	const options = signed + `tokenFile = "/run/t"; username = "robot$50%"; passwordFile = "/run/p"; dockerConfigFile = "/etc/d/config.json";`
	s := evaluate(t, "nixos.nix", "x86_64-linux", options).Service
	if want := map[string]string{"GITHUB_TOKEN_FILE": "%d/token", "NIXOCI_USERNAME": "robot$50%%", "NIXOCI_PASSWORD_FILE": "%d/password", "DOCKER_CONFIG": "%d"}; !reflect.DeepEqual(s.Environment, want) {
		t.Errorf("NixOS: got %v, want %v", s.Environment, want)
	}
	if want := []any{"token:/run/t", "password:/run/p", "config.json:/etc/d/config.json"}; !reflect.DeepEqual(s.ServiceConfig["LoadCredential"], want) {
		t.Errorf("NixOS: got %v, want %v", s.ServiceConfig["LoadCredential"], want)
	}
	plain := map[string]string{"GITHUB_TOKEN_FILE": "/run/t", "NIXOCI_USERNAME": "robot$50%", "NIXOCI_PASSWORD_FILE": "/run/p", "DOCKER_CONFIG": "/etc/d"}
	d := evaluate(t, "darwin.nix", "aarch64-darwin", options).Daemon.Environment
	delete(d, "HOME")
	if !reflect.DeepEqual(d, plain) {
		t.Errorf("nix-darwin: got %v, want %v", d, plain)
	}
	if a := evaluate(t, "home-manager.nix", "aarch64-darwin", options).Agent.Config.EnvironmentVariables; !reflect.DeepEqual(a, plain) {
		t.Errorf("home-manager on macOS: got %v, want %v", a, plain)
	}
	u := evaluate(t, "home-manager.nix", "x86_64-linux", options).UserService["Service"]["Environment"]
	if want := []any{`"DOCKER_CONFIG=/etc/d"`, `"GITHUB_TOKEN_FILE=/run/t"`, `"NIXOCI_PASSWORD_FILE=/run/p"`, `"NIXOCI_USERNAME=robot$50%%"`}; !reflect.DeepEqual(u, want) {
		t.Errorf("home-manager on Linux: got %v, want %v", u, want)
	}
}

func TestSeveralCaches(t *testing.T) {
	t.Parallel()
	got := strings.Join(arguments(t, evaluate(t, "nixos.nix", "x86_64-linux", `cache = [ "ghcr.io/a/b" "oci:/c" ]; publicKeys = [ "`+key+`" ];`).Service), " ")
	if !strings.Contains(got, " --cache ghcr.io/a/b --cache oci:/c ") {
		t.Errorf("got %s", got)
	}
}

func TestFirewall(t *testing.T) {
	t.Parallel()
	if got := evaluate(t, "nixos.nix", "x86_64-linux", signed).Ports; len(got) > 0 {
		t.Errorf("by default the firewall opens %v", got)
	}
	if got := evaluate(t, "nixos.nix", "x86_64-linux", signed+"openFirewall = true;").Ports; !slices.Equal(got, []int{37515}) {
		t.Errorf("got %v", got)
	}
}

// Each system has its own kind of service, and no other.
func TestKinds(t *testing.T) {
	t.Parallel()
	darwin := evaluate(t, "darwin.nix", "aarch64-darwin", signed)
	if darwin.Service != nil || darwin.UserService != nil || darwin.Agent != nil {
		t.Errorf("nix-darwin: got %+v", darwin)
	}
	const user = "_nixoci-proxy"
	if got := darwin.Daemon.ServiceConfig; got["UserName"] != user || got["KeepAlive"] != true || got["RunAtLoad"] != true {
		t.Errorf("nix-darwin: got %v", got)
	}
	if got := darwin.Users; !slices.Equal(got.KnownUsers, []string{user}) || !slices.Equal(got.KnownGroups, []string{user}) || got.Users[user].Home == "" {
		t.Errorf("nix-darwin: got %+v", got)
	}
	linux := evaluate(t, "home-manager.nix", "x86_64-linux", signed)
	if linux.Agent != nil || linux.Service != nil || !reflect.DeepEqual(linux.UserService["Install"]["WantedBy"], []any{"default.target"}) {
		t.Errorf("home-manager on Linux: got %+v", linux)
	}
	mac := evaluate(t, "home-manager.nix", "aarch64-darwin", signed)
	if mac.UserService != nil || mac.Daemon != nil || !mac.Agent.Enable || !mac.Agent.Config.KeepAlive || !mac.Agent.Config.RunAtLoad {
		t.Errorf("home-manager on macOS: got %+v", mac)
	}
}
