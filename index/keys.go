package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/org/nixoci-action/index/format"
)

// keysFile is the file with what is remembered of a cache's keys. It may be
// removed, to believe the cache anew.
const keysFile = "keys.json"

// maxKeysFile bounds what is read of it, in bytes.
const maxKeysFile = 4 << 20

// keyMemory is what a reader remembers of a cache's keys, so that who can write
// to the registry cannot take it back: neither put another key in the place of
// the first ones, nor take away a statement that one was retired.
type keyMemory struct {
	First      []string             `json:"first,omitempty"`
	Statements format.KeyStatements `json:"statements,omitempty"`
}

// judgeKeys finds out which keys of a new snapshot are to be trusted, and
// remembers it.
func (c *Cache) judgeKeys(s *Snapshot) {
	known, err := c.disk.keys(c.keys)
	c.keys = known
	s.config.KeyStatements = known.Statements.Merge(s.config.KeyStatements)
	if err != nil {
		c.warnOfKeys("the remembered keys of the cache cannot be read, so none that it names is trusted; repair the file, or remove it to believe the cache anew", "error", err)
		s.keys = s.KeysFrom(c.opts.TrustedKeys)
		return
	}
	if len(c.opts.TrustedKeys) == 0 && len(c.keys.First) == 0 {
		c.keys.First = s.config.FirstKeys()
	}
	s.first = c.firstKeys(s.config)
	s.keys = c.keyChain(s.config)
	c.keys.Statements = c.keys.Statements.Merge(s.keys.Counted)
	if len(c.keys.First) > len(known.First) || len(c.keys.Statements) > len(known.Statements) {
		if err := c.disk.saveKeys(c.keys); err != nil {
			c.opts.Logger.Warn("the keys of the cache were not remembered", "error", err)
		}
	}
	c.tellOfKeys(s.keys)
}

// firstKeys are the keys that were given or remembered.
func (c *Cache) firstKeys(conf format.Config) []string {
	switch {
	case len(c.opts.TrustedKeys) > 0:
		return c.opts.TrustedKeys
	case len(c.keys.First) > 0:
		return c.keys.First
	}
	return conf.FirstKeys() // nothing was read yet
}

// keyChain follows the statements from there.
func (c *Cache) keyChain(conf format.Config) format.KeyChain {
	conf.KeyStatements = c.keys.Statements.Merge(conf.KeyStatements)
	return conf.Keys(c.firstKeys(conf))
}

// tellOfKeys warns of what a chain does not explain: somebody has named a key, or
// nothing is left to trust.
func (c *Cache) tellOfKeys(chain format.KeyChain) {
	since := "the keys that were given"
	remedy := "whoever has a key of the cache vouches for others with nixoci keys add; or trust them here with --trusted-key"
	if len(c.opts.TrustedKeys) == 0 {
		since = "the keys that the cache named first"
		if c.disk.dir != "" {
			remedy += "; or remove " + filepath.Join(c.disk.dir, keysFile) + " to believe the cache anew"
		}
	}
	switch {
	case len(chain.Trusted) == 0 && len(chain.Retired) > 0:
		c.warnOfKeys("all keys of the cache that we trusted are retired: none is trusted until a new one is given with --trusted-key", "retired", strings.Join(chain.Retired, " "))
	case len(chain.Unvouched) > 0:
		c.warnOfKeys("the cache names keys for which "+since+" do not vouch; they are not trusted, and clients do not learn of them",
			"keys", strings.Join(chain.Unvouched, " "), "remedy", remedy)
	default:
		c.told = ""
	}
}

// warnOfKeys warns once, until there is something else to say.
func (c *Cache) warnOfKeys(msg string, args ...any) {
	if text := fmt.Sprint(msg, args); text != c.told {
		c.told = text
		c.opts.Logger.Warn(msg, args...)
	}
}

// keys adds what is remembered on disk to what is known.
func (d disk) keys(known keyMemory) (keyMemory, error) {
	if d.dir == "" {
		return known, nil
	}
	var m keyMemory
	name := filepath.Join(d.dir, keysFile)
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil && st.Size() > maxKeysFile {
		err = errors.New("it is too large")
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(name)
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return known, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(m.First) == 0 {
		m.First = known.First
	}
	m.Statements = m.Statements.Merge(known.Statements)
	return m, nil
}

func (d disk) saveKeys(m keyMemory) error {
	if d.dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return d.write(filepath.Join(d.dir, keysFile), append(text, '\n'))
}
