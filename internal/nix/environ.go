package nix

import (
	"strings"

	"github.com/org/nixoci-action/internal/secret"
)

// childEnv returns env without secrets and with Git told never to ask. Nix
// shows its environment to impure evaluation (builtins.getEnv), to Git and,
// without a sandbox, to whoever reads /proc; none of them has business with
// our keys.
func childEnv(env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if ok && name != "" && !Withheld(name) {
			out = append(out, kv)
		}
	}
	if envValue(out, "GIT_TERMINAL_PROMPT") == "" {
		out = append(out, "GIT_TERMINAL_PROMPT=0")
	}
	return out
}

// Withheld reports whether a variable of that name may hold a secret, or an
// address that is one (the token services of Actions), so that Nix does not get it.
//
// Kept on purpose: NIX_CONFIG (access tokens for private flakes live there,
// and without it Nix is another Nix), AWS_* (Nix's own s3:// substituters)
// and REGISTRY_AUTH_FILE (a file's name, no secret).
func Withheld(name string) bool {
	name = strings.ToUpper(name)
	for _, prefix := range []string{"NIXOCI_", "INPUT_", "DOCKER_AUTH", "NIX_SIGNING_KEY"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	if strings.HasPrefix(name, "AWS_") {
		return false
	}
	if strings.HasPrefix(name, "ACTIONS_") && strings.HasSuffix(name, "URL") {
		return true
	}
	// GitLab's address of the repository has the job's token in it
	return secret.Named(name) || name == "GH_PAT" || name == "CI_REPOSITORY_URL" || strings.HasSuffix(name, "_PAT")
}

// envValue returns the value of a variable; the last one counts.
func envValue(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(env[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}
