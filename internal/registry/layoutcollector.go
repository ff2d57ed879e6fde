package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/internal/retry"
)

// What a collector does while others wait for the lock, and how long it leaves
// the lock to them: some turns of their waiting for it.
const (
	maxBite      = 1000 // blobs
	maxBiteTime  = time.Second
	betweenBites = 25 * time.Millisecond
)

// collector frees the blobs of a layout that nothing in it names.
//
// Writers may be at work: what they store is younger than before, and what they
// rely on is looked for again when they write a manifest, under the lock.
// The collector holds it too while it makes sure that a blob is not named and
// removes it.
type collector struct {
	*layout
	before time.Time
	// parsed has what each manifest names; a digest names the same for ever.
	parsed map[v1.Hash]references
	freed  Freed
}

// references is what a manifest names: all blobs, and the manifests among them.
type references struct {
	blobs     []string // hex
	manifests []v1.Hash
}

func (l *layout) Collect(ctx context.Context, before time.Time) (Freed, error) {
	c := &collector{layout: l, before: before, parsed: map[v1.Hash]references{}}
	unnamed, err := c.look(ctx)
	for err == nil && len(unnamed) > 0 {
		if unnamed, err = c.bite(ctx, unnamed); err == nil && len(unnamed) > 0 {
			err = retry.Sleep(ctx, betweenBites)
		}
	}
	if err != nil {
		return c.freed, fmt.Errorf("freeing blobs: %w", err)
	}
	return c.freed, nil
}

var blobNameRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// look lists the blobs that seem to be in nobody's use. It reads every
// manifest without holding up anybody.
func (c *collector) look(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(c.blobs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, c.fail(err)
	}
	if len(entries) == 0 {
		return nil, nil
	}
	named, err := c.mark(ctx)
	if err != nil { // or another collector has just removed what it could not read
		named, err = c.markLocked(ctx)
	}
	if err != nil {
		return nil, err
	}
	var unnamed []string
	for _, e := range entries {
		if !named[e.Name()] && e.Type().IsRegular() && blobNameRE.MatchString(e.Name()) {
			unnamed = append(unnamed, e.Name())
		}
	}
	return unnamed, nil
}

// bite removes some of the blobs, if they are old and still not named, and
// returns the others.
func (c *collector) bite(ctx context.Context, unnamed []string) (left []string, err error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	start := time.Now()
	named, err := c.mark(ctx)
	if err != nil {
		return nil, err
	}
	// if the power fails, index.json must not come back with manifests whose
	// blobs are gone
	if err := syncDir(c.dir); err != nil {
		return nil, c.fail(err)
	}
	for i, name := range unnamed {
		if i == maxBite || i > 0 && time.Since(start) > maxBiteTime {
			return unnamed[i:], nil
		}
		if named[name] {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := c.remove(filepath.Join(c.blobs(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, c.fail(err)
		}
	}
	return nil, nil
}

// remove removes a blob that is old enough.
func (c *collector) remove(name string) error {
	st, err := os.Lstat(name)
	if err != nil || !st.ModTime().Before(c.before) {
		return err
	}
	return c.take(name)
}

// take moves the blob away, looks at its age again, and removes it or puts it
// back: somebody may have written it anew, which needs no lock.
func (c *collector) take(name string) error {
	away := filepath.Join(filepath.Dir(name), uploadPrefix+filepath.Base(name))
	if err := os.Rename(name, away); err != nil {
		return err
	}
	st, err := os.Lstat(away)
	if err != nil {
		return err
	}
	if !st.ModTime().Before(c.before) {
		return os.Rename(away, name)
	}
	if err := os.Remove(away); err != nil {
		return err
	}
	c.freed.Blobs++
	c.freed.Bytes += st.Size()
	return nil
}

func (c *collector) markLocked(ctx context.Context) (map[string]bool, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return c.mark(ctx)
}

// mark returns the names of all blobs that are named by index.json, by a
// manifest in it, and so on. If one cannot be read it fails: nobody knows then
// what else is in use.
func (c *collector) mark(ctx context.Context) (map[string]bool, error) {
	raw, err := os.ReadFile(filepath.Join(c.dir, indexName))
	if err != nil {
		return nil, c.fail(err)
	}
	index, err := parseReferences(raw)
	if err == nil && index.manifests == nil {
		err = errors.New("it has no list of manifests")
	}
	if err != nil {
		return nil, c.fail(fmt.Errorf("decoding index.json: %w", err))
	}
	named := map[string]bool{}
	seen := map[v1.Hash]bool{}
	for todo := []references{index}; len(todo) > 0; {
		refs := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, b := range refs.blobs {
			named[b] = true
		}
		for _, digest := range refs.manifests {
			if seen[digest] {
				continue
			}
			seen[digest] = true
			next, err := c.references(ctx, digest)
			if err != nil {
				return nil, err
			}
			todo = append(todo, next)
		}
	}
	return named, nil
}

func (c *collector) references(ctx context.Context, digest v1.Hash) (references, error) {
	if refs, ok := c.parsed[digest]; ok {
		return refs, nil
	}
	m, err := c.Manifest(ctx, digest.String())
	if errors.Is(err, ErrNotFound) { // damage, not absence
		return references{}, c.fail(fmt.Errorf("manifest %s is missing", digest))
	}
	if err != nil {
		return references{}, err
	}
	refs, err := parseReferences(m.Raw)
	if err != nil {
		return references{}, c.fail(fmt.Errorf("decoding manifest %s: %w", digest, err))
	}
	c.parsed[digest] = refs
	return refs, nil
}

// parseReferences takes every digest in a manifest for one of a blob, wherever
// it stands: other tools may have written it, in a form that we do not know.
func parseReferences(raw []byte) (references, error) {
	var refs references
	var list struct {
		Manifests []struct {
			Digest v1.Hash `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return refs, err
	}
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return refs, err
	}
	if all == nil {
		return refs, errors.New("it is empty")
	}
	refs.blobs = digestsWithin(nil, all)
	if list.Manifests != nil {
		refs.manifests = []v1.Hash{}
	}
	for _, m := range list.Manifests {
		refs.manifests = append(refs.manifests, m.Digest)
	}
	return refs, nil
}

// digestsWithin appends the hex form of the digests in a decoded document.
func digestsWithin(found []string, value any) []string {
	switch v := value.(type) {
	case string:
		for _, h := range digestsIn(v) {
			found = append(found, h.Hex)
		}
	case []any:
		for _, e := range v {
			found = digestsWithin(found, e)
		}
	case map[string]any:
		for k, e := range v {
			found = digestsWithin(digestsWithin(found, k), e)
		}
	}
	return found
}

// syncDir makes the names in a directory durable.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
