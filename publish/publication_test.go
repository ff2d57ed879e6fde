package publish

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/org/nixoci-action/internal/ci"
	"github.com/org/nixoci-action/internal/secret"
)

// A publication is read by everybody who can read the cache.
func TestPublicationHasNoSecrets(t *testing.T) {
	const token, password = "ghs_0123456789abcdefghij", "pass-word-in-URL"
	secrets := &secret.Set{}
	secrets.Add("a token", token)
	p := &publisher{Options: Options{
		Flake:   "git+https://me:" + password + "@git.example.org/r?dir=x&access_token=" + token,
		Include: []string{"packages.*." + token}, Secrets: secrets,
		Job: ci.Detect(env("GITHUB_ACTIONS", "true", "GITHUB_REF", "refs/heads/"+token, "GITHUB_RUN_ID", "1", "GITHUB_REPOSITORY", "o/r",
			"GITHUB_SERVER_URL", "https://me:"+password+"@github.example.org", "GITHUB_JOB", "job")),
	}}
	pub := p.publication([]root{{"a", "/nix/store/4cggaifbp1fc8zhsdrk9pzi45ifqk6i6-good"}, {"b", "/nix/store/5cggaifbp1fc8zhsdrk9pzi45ifqk6i6-" + token}, {token, "/nix/store/6cggaifbp1fc8zhsdrk9pzi45ifqk6i6-x"}})
	text, err := json.Marshal(pub)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), token) || strings.Contains(string(text), password) {
		t.Errorf("got %s", text)
	}
	if pub.Flake != "git+https://git.example.org/r?dir=x" || pub.RunURL != "https://github.example.org/o/r/actions/runs/1" || pub.Ref != "refs/heads/***" || len(pub.Roots) != 1 || pub.Roots[0].Attr != "a" {
		t.Errorf("got %s", text)
	}
}
