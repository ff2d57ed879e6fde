package registrytest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Rules are the media types that a registry takes in a manifest. Of a list that
// is nil it takes all.
type Rules struct {
	// Artifacts are the artifactTypes; a manifest without one is always taken.
	Artifacts []string
	Configs   []string
	Layers    []string
	// ParseConfig refuses the config of an image that lacks what image-spec
	// requires.
	ParseConfig bool
	// Blobs is how many a manifest may name besides its config; 0 means any number.
	Blobs int
	// TooMany answers a manifest that names more.
	TooMany Answer
}

// Answer is an error of the distribution specification.
type Answer struct {
	Status                int
	Code, Message, Detail string
}

const (
	ociEmpty  = "application/vnd.oci.empty.v1+json"
	ociConfig = "application/vnd.oci.image.config.v1+json"
	ociLayer  = "application/vnd.oci.image.layer.v1.tar"
	helm      = "application/vnd.cncf.helm.config.v1+json"
)

var ociLayers = []string{ociLayer, ociLayer + "+gzip", ociLayer + "+zstd"}

// GitLab are the rules of GitLab's registry with its database, as that of
// gitlab.com, by its source: artifactType and the config's media type must be in
// a list. A layer's need not be. Of the list, here are the types that matter.
func GitLab() Rules {
	known := append([]string{ociEmpty, ociConfig, helm}, ociLayers...)
	return Rules{Artifacts: known, Configs: known}
}

// OldGitLab are those before GitLab 16.9: the list lacks the empty config, and
// counts for layers, too.
func OldGitLab() Rules {
	known := append([]string{ociConfig, helm}, ociLayers...)
	return Rules{Artifacts: known, Configs: known, Layers: known}
}

// Quay are those of a Quay without IGNORE_UNKNOWN_MEDIATYPES: it looks at
// configs and layers, and into the config of an image, but not at artifactType.
func Quay() Rules {
	return Rules{Configs: []string{ociConfig, helm}, Layers: append([]string{"application/tar+gzip"}, ociLayers...), ParseConfig: true}
}

// ManyReferences are those of a GitLab registry that limits how many blobs a
// manifest names.
func ManyReferences(blobs int) Rules {
	r := GitLab()
	r.Blobs, r.TooMany = blobs, Answer{http.StatusBadRequest, "MANIFEST_REFERENCE_LIMIT", "too many manifest references", ""}
	return r
}

// ECR are those of Amazon ECR, which takes 500 layers in a manifest: the answer
// to more is one that it gave to tart and to others.
func ECR(layers int) Rules {
	return Rules{Blobs: layers, TooMany: Answer{http.StatusMethodNotAllowed, "UNSUPPORTED",
		"Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'Limit on number of layers per image exceeded'", ""}}
}

// NoArtifacts are those of a registry that takes no cache in any form.
func NoArtifacts() Rules {
	return Rules{Configs: []string{"application/vnd.docker.container.image.v1+json"}}
}

// Strict is a distribution that takes only certain media types.
type Strict struct {
	// Addr is "127.0.0.1:PORT".
	Addr string
	// Storage is what is behind it.
	Storage *Distribution

	mu      sync.Mutex
	rules   Rules
	after   int // manifests under a tag, until next replaces rules
	next    Rules
	refused []string
}

// NewStrict starts one.
func NewStrict(tb testing.TB, rules Rules) *Strict {
	tb.Helper()
	return newStrict(tb, NewDistribution(tb), rules)
}

// NewLockedGitLab starts one with the rules of GitLab's, and with the login of
// NewLocked.
func NewLockedGitLab(tb testing.TB) *Strict {
	tb.Helper()
	return newStrict(tb, NewLocked(tb), GitLab())
}

func newStrict(tb testing.TB, storage *Distribution, rules Rules) *Strict {
	s := &Strict{Storage: storage, rules: rules, after: -1}
	server := httptest.NewServer(s)
	tb.Cleanup(server.Close)
	s.Addr = strings.TrimPrefix(server.URL, "http://")
	return s
}

// Become has other rules count once it has taken so many more manifests under
// tags.
func (s *Strict) Become(rules Rules, after int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next, s.after = rules, after
}

// Refused are the tags and digests of the manifests that it did not take.
func (s *Strict) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

// ServeHTTP is the registry.
func (s *Strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, ref, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if a := s.judge(r.URL.Path, ref, body); a.Status != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(a.Status)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{
				map[string]string{"code": a.Code, "message": a.Message, "detail": a.Detail},
			}})
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	behind(s.Storage.Addr).ServeHTTP(w, r)
}

// judge says what is wrong with a manifest; its status is 0 if it is taken.
func (s *Strict) judge(path, ref string, body []byte) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	tagged := !strings.Contains(ref, ":")
	if tagged && s.after == 0 {
		s.rules = s.next
	}
	var a Answer
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		a = invalid(err.Error())
	} else if detail := s.fault(path, m); detail != "" {
		a = invalid(detail)
	} else if s.rules.Blobs > 0 && len(m.Layers) > s.rules.Blobs {
		a = s.rules.TooMany
	}
	switch {
	case a.Status != 0:
		s.refused = append(s.refused, ref)
	case tagged:
		s.after--
	}
	return a
}

func invalid(detail string) Answer {
	return Answer{http.StatusBadRequest, "MANIFEST_INVALID", "manifest invalid", detail}
}

func (s *Strict) fault(path string, m v1.Manifest) string {
	unknown := func(list []string, t string) bool { return list != nil && !slices.Contains(list, t) }
	switch {
	case m.ArtifactType != "" && unknown(s.rules.Artifacts, m.ArtifactType):
		return "unknown media type: " + m.ArtifactType
	case unknown(s.rules.Configs, string(m.Config.MediaType)):
		return "unknown media type: " + string(m.Config.MediaType)
	}
	for _, l := range m.Layers {
		if unknown(s.rules.Layers, string(l.MediaType)) {
			return "unknown media type: " + string(l.MediaType)
		}
	}
	if !s.rules.ParseConfig || m.Config.MediaType != ociConfig {
		return ""
	}
	name, _, _ := strings.Cut(path, "/manifests/")
	resp, err := http.Get("http://" + s.Storage.Addr + name + "/blobs/" + m.Config.Digest.String())
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var config struct {
		Architecture, OS string
		RootFS           struct {
			Type    string
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if json.NewDecoder(resp.Body).Decode(&config) != nil || config.Architecture == "" || config.OS == "" || config.RootFS.Type != "layers" || config.RootFS.DiffIDs == nil {
		return "malformed config"
	}
	return ""
}
