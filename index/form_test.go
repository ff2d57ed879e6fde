package index_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/collect"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
)

// formOf is the form of what a tag names, and the manifest as it is.
func formOf(t *testing.T, repo registry.Repository, tag string) (format.Form, v1.Manifest) {
	t.Helper()
	m, err := repo.Manifest(context.Background(), tag)
	if err != nil {
		t.Fatal(err)
	}
	_, f, err := format.DecodeManifest(m.Raw)
	if err != nil {
		t.Fatal(err)
	}
	im, err := v1.ParseManifest(bytes.NewReader(m.Raw))
	if err != nil {
		t.Fatal(err)
	}
	return f, *im
}

// stored counts the manifests in a registry's repository, with and without tags.
func stored(t *testing.T, d *registrytest.Distribution) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.Dir, "docker/registry/v2/repositories/a/b/_manifests/revisions/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// Each registry gets the first form that it takes, and every reader and writer
// gets along with it. What Prepare stores has no tag and is one object; once
// there is a root nothing is tried.
func TestForms(t *testing.T) {
	for name, tc := range map[string]struct {
		rules registrytest.Rules
		want  format.Form
	}{
		"lax":       {registrytest.Rules{}, format.FormFull},
		"gitlab":    {registrytest.GitLab(), format.FormUntyped},
		"oldgitlab": {registrytest.OldGitLab(), format.FormImage},
		"quay":      {registrytest.Quay(), format.FormImage},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			s := registrytest.NewStrict(t, tc.rules)
			open := indextest.Opener(t, s.Addr+"/a/b")
			repo := open()
			for range 2 {
				c := index.Open(open(), indextest.Quick())
				if err := c.Prepare(ctx); err != nil {
					t.Fatal(err)
				}
				if c.Form() != tc.want {
					t.Errorf("got form %d, want %d", c.Form(), tc.want)
				}
			}
			if tags, err := repo.Tags(ctx); err != nil || len(tags) != 0 {
				t.Errorf("Prepare left the tags %q, %v", tags, err)
			}
			if n := stored(t, s.Storage); n != 1 {
				t.Errorf("Prepare left %d manifests", n)
			}
			if snap, err := index.Open(open(), indextest.Quick()).Sweep(ctx); err != nil || len(snap.Segments()) != 0 || snap.Digest() != "" {
				t.Errorf("after Prepare the cache is not empty: %v", err)
			}

			a := indextest.NewEntry(t, repo, "a")
			indextest.PublishAt(t, repo, 60, "refs/heads/main", a)
			indextest.PublishAt(t, repo, 3, "refs/heads/main", indextest.NewEntry(t, repo, "b"))
			refused := len(s.Refused())
			c := index.Open(open(), indextest.Quick())
			if err := c.Prepare(ctx); err != nil || c.Form() != tc.want {
				t.Errorf("with a root: got form %d, %v", c.Form(), err)
			}
			indextest.PublishAt(t, repo, 2, "refs/heads/main", indextest.NewEntry(t, repo, "c"))
			cleaned := index.Open(repo, indextest.At(0))
			swept, err := cleaned.Sweep(ctx)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := collect.NewPlan(swept, collect.PlanOptions{Now: indextest.Noon, Delay: 24 * time.Hour, Retention: collect.Retention{Last: 1, Age: time.Hour}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := collect.Run(ctx, cleaned, plan); err != nil {
				t.Fatal(err)
			}
			if n := len(s.Refused()); n != refused {
				t.Errorf("a cache with a root had %d manifests refused", n-refused)
			}
			for _, read := range []func(*index.Cache, context.Context) (*index.Snapshot, error){(*index.Cache).Refresh, (*index.Cache).Sweep} {
				snap, err := read(index.Open(open(), indextest.Quick()), ctx)
				if err != nil {
					t.Fatal(err)
				}
				indextest.Has(t, snap, indextest.NewEntry(t, repo, "c"))
				indextest.Lacks(t, snap, a)
				for _, tag := range append([]string{format.RootTag}, tagsOf(snap)...) {
					f, im := formOf(t, repo, tag)
					_, annotated := im.Annotations["vnd.nixoci.type"]
					if f != tc.want || annotated == (f == format.FormFull) || (im.Config.MediaType == types.OCIConfigJSON) != (f == format.FormImage) {
						t.Errorf("%s: got form %d: %+v", tag, f, im)
					}
				}
			}

			// without the root the tags tell all
			digest, err := repo.Resolve(ctx, format.RootTag)
			if err != nil {
				t.Fatal(err)
			}
			if err := repo.DeleteManifest(ctx, format.RootTag, digest); err != nil {
				t.Fatal(err)
			}
			snap, err := index.Open(open(), indextest.Quick()).Refresh(ctx)
			if err != nil {
				t.Fatal(err)
			}
			indextest.Has(t, snap, indextest.NewEntry(t, repo, "c"))
		})
	}
}

func tagsOf(s *index.Snapshot) (tags []string) {
	for _, seg := range s.Segments() {
		tags = append(tags, seg.Tag)
	}
	return tags
}

// A registry that becomes stricter in the middle of a run gets plainer manifests
// from then on.
func TestFormChangesMeanwhile(t *testing.T) {
	for _, rules := range []registrytest.Rules{registrytest.GitLab(), registrytest.Quay()} {
		for after := range 4 {
			s := registrytest.NewStrict(t, registrytest.Rules{})
			repo := indextest.Opener(t, s.Addr+"/a/b")()
			s.Become(rules, after)
			entries := []format.Entry{indextest.NewEntry(t, repo, "a"), indextest.NewEntry(t, repo, "b"), indextest.NewEntry(t, repo, "c")}
			if r, err := indextest.Publish(t, repo, index.WriterOptions{CommitEvery: 1}, entries...); err != nil || r.Committed != 3 {
				t.Fatalf("after %d manifests: got %+v, %v", after, r, err)
			}
			if len(s.Refused()) == 0 {
				t.Errorf("after %d manifests: nothing was refused", after)
			}
			snap, err := index.Open(repo, indextest.Quick()).Refresh(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			indextest.Has(t, snap, entries...)
		}
	}
}

// Two writers of one cache may use different forms.
func TestFormsSideBySide(t *testing.T) {
	ctx := context.Background()
	for _, plain := range []format.Form{format.FormUntyped, format.FormImage} {
		repo := indextest.Opener(t, registrytest.NewDistribution(t).Addr+"/a/b")()
		var all []format.Entry
		caches := []*index.Cache{index.Open(repo, indextest.Quick()), index.Open(repo, indextest.Quick())}
		caches[1].Learn(plain)
		for i, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
			c := caches[i%2]
			c.SetTaken(int32(i % 2 * (int(plain) + 1))) // as a process that has not read the other's root
			base, err := c.Sweep(ctx)
			if err != nil {
				t.Fatal(err)
			}
			c.SetTaken(int32(i % 2 * (int(plain) + 1)))
			w, err := c.NewWriter(base, index.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			e := indextest.NewEntry(t, repo, name)
			if err := w.Add(ctx, e); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Close(ctx, nil); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
			snap, err := index.Open(repo, indextest.Quick()).Refresh(ctx)
			if err != nil {
				t.Fatal(err)
			}
			indextest.Has(t, snap, all...)
		}
	}
}

// What takes no form is told apart from what may pass, says which side it is,
// and leaves nothing that counts.
func TestNoForm(t *testing.T) {
	ctx := context.Background()
	s := registrytest.NewStrict(t, registrytest.NoArtifacts())
	repo := indextest.Opener(t, s.Addr+"/a/b")()
	err := index.Open(repo, indextest.Quick()).Prepare(ctx)
	if !registry.Refused(err) || registry.Denied(err) || hint.Of(err) == "" {
		t.Errorf("got %v, hint %q", err, hint.Of(err))
	}
	if n := len(s.Refused()); n != 3 {
		t.Errorf("%d forms were tried", n)
	}
	if n := stored(t, s.Storage); n != 0 {
		t.Errorf("%d manifests were stored", n)
	}
	r, err := indextest.Publish(t, repo, index.WriterOptions{}, indextest.NewEntry(t, repo, "a"))
	if !registry.Refused(err) || r.Committed != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if err := index.Open(&indextest.Crashing{Repository: repo}, indextest.Quick()).Prepare(ctx); !errors.Is(err, indextest.ErrCrash) || registry.Refused(err) {
		t.Errorf("got %v", err)
	}
}

// In place of a directory Prepare finds out whether it could be made, and makes
// nothing: a publish that comes to nothing leaves no cache.
func TestPrepareInDirectory(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for name, text := range map[string]string{"file": "", "foreign/README": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, ok := range map[string]bool{"new": true, "far/below": true, "file": false, "file/x": false, "foreign": false} {
		repo := indextest.Opener(t, "oci:"+filepath.Join(dir, name))()
		if err := index.Open(repo, indextest.Quick()).Prepare(ctx); (err == nil) != ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var left []string
	_ = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, _ error) error {
		left = append(left, strings.TrimPrefix(name, dir))
		return nil
	})
	if want := []string{"", "/file", "/foreign", "/foreign/README"}; !slices.Equal(left, want) {
		t.Errorf("got %q, want %q", left, want)
	}
	repo := indextest.Opener(t, "oci:"+filepath.Join(dir, "new"))()
	indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "a"))
	if err := index.Open(repo, indextest.Quick()).Prepare(ctx); err != nil {
		t.Error(err)
	}
}

// Manifests of a cache on ghcr.io name its repository, so that GitHub links the
// package to it, whoever pushes first. Others name none.
func TestSource(t *testing.T) {
	for name, want := range map[string]string{"ghcr.io/owner/repo/nix-cache": "https://github.com/owner/repo", "ghcr.io/owner/nix-cache": "", "registry.example.org/owner/repo/nix-cache": ""} {
		repo := named{indextest.NewMemory(), name}
		indextest.MustPublish(t, repo, indextest.NewEntry(t, repo, "a"))
		for _, tag := range indextest.Tags(t, repo) {
			_, im := formOf(t, repo, tag)
			if got := im.Annotations["org.opencontainers.image.source"]; got != want {
				t.Errorf("%s in %s names %q, want %q", tag, name, got, want)
			}
		}
	}
}

// named is a repository under another name.
type named struct {
	registry.Repository
	name string
}

func (n named) String() string { return n.name }
