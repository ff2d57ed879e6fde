package format

import (
	"fmt"
	"slices"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// Config is what clients need to know of a cache besides its entries.
type Config struct {
	// StoreDir is the store directory; empty means /nix/store.
	StoreDir string `json:"storeDir,omitempty"`
	// PublicKeys are "name:base64", in the form of trusted-public-keys. Whoever
	// can write to the cache can name one here: which of them are to be trusted
	// FollowKeys says.
	PublicKeys []string `json:"publicKeys,omitempty"`
	// KeyStatements are what the keys say of each other.
	KeyStatements KeyStatements `json:"keyStatements,omitempty"`
	// Priority is the substituter's priority; 0 means that none was chosen.
	Priority int `json:"priority,omitempty"`
	// Upstreams are the caches on which the references of entries may be.
	Upstreams []string `json:"upstreams,omitempty"`
	// CompatIndex says whether nixcache-oci's readers are served, too.
	CompatIndex CompatIndex `json:"compatIndex,omitzero"`
}

// CompatIndex says whether the root carries the whole index in nixcache-oci's
// format. The zero value says nothing, which means no.
type CompatIndex struct {
	On bool `json:"on"`
	// Time is when it was said: the latest word counts. Segments are no order
	// of words, because merged ones repeat old ones.
	Time time.Time `json:"time"`
}

// Said reports whether anybody has chosen.
func (c CompatIndex) Said() bool { return !c.Time.IsZero() }

// Merge returns the later word, in whichever order they are given.
func (c CompatIndex) Merge(d CompatIndex) CompatIndex {
	if n := d.Time.Compare(c.Time); n > 0 || n == 0 && d.On {
		return d
	}
	return c
}

// After returns what is left to say when old has been said: nothing, or a word
// that counts, whatever the clocks were.
func (c CompatIndex) After(old CompatIndex) CompatIndex {
	switch {
	case !c.Said() || c.On == old.On:
		return CompatIndex{}
	case !c.Time.After(old.Time):
		c.Time = old.Time.Add(time.Second)
	}
	return c
}

// Merge adds what a later writer says: lists grow, single values change.
func (c Config) Merge(later Config) Config {
	if later.StoreDir != "" {
		c.StoreDir = later.StoreDir
	}
	if later.Priority != 0 {
		c.Priority = later.Priority
	}
	c.CompatIndex = c.CompatIndex.Merge(later.CompatIndex)
	c.PublicKeys = mergeKeys(c.PublicKeys, later.PublicKeys)
	c.KeyStatements = c.KeyStatements.Merge(later.KeyStatements)
	c.Upstreams = Union(c.Upstreams, later.Upstreams)
	return c
}

// mergeKeys is Union for at most MaxPublicKeys.
func mergeKeys(keys, more []string) []string {
	keys = slices.Clip(keys)
	for _, k := range more {
		if len(keys) < MaxPublicKeys && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// Union returns the strings of a, and those of b that a lacks, each in its order.
func Union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Dir returns the store directory.
func (c Config) Dir() string {
	if c.StoreDir == "" {
		return storepath.DefaultDir
	}
	return c.StoreDir
}

// Validate keeps a damaged or hostile index from writing lines of its own
// into what a proxy prints.
func (c Config) Validate() error {
	if c.StoreDir != "" {
		if _, err := storepath.Parse(c.StoreDir + "/00000000000000000000000000000000-x"); err != nil || !bincache.Printable(c.StoreDir) {
			return fmt.Errorf("the cache's store directory is %q", c.StoreDir)
		}
	}
	for _, k := range c.PublicKeys {
		if _, err := signature.ParsePublicKey(k); err != nil || !bincache.Printable(k) {
			return fmt.Errorf("the cache's public key %q is not one", k)
		}
	}
	for _, u := range c.Upstreams {
		if !bincache.Printable(u) {
			return fmt.Errorf("the cache's upstream %q is no URL", u)
		}
	}
	return nil
}
