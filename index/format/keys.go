package format

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/bincache"
)

// Limits of keys and of statements about them. What is beyond them is left out.
const (
	MaxPublicKeys    = 256 // in a configuration
	MaxKeyStatements = 256 // in a configuration
	maxKeyText       = 256 // characters of a key
	maxKeeps         = 64  // keys that one statement keeps
)

// KeyStatement is what a key of a cache says of another key: that it is one as
// well, or no longer. It is about keys and not about a cache, which may be
// mirrored and renamed. Nobody without a key can make one that counts.
type KeyStatement struct {
	// Add is the key that is one of the cache's from now on; Retire is the one
	// that is so no longer, with all that only it has added, but for Keeps. All
	// are "name:base64", and one of Add and Retire is empty.
	Add    string   `json:"add,omitempty"`
	Retire string   `json:"retire,omitempty"`
	Keeps  []string `json:"keeps,omitempty"`
	// Time is when it was said, for people: nothing depends on it.
	Time time.Time `json:"time"`
	// By is the key that says it, and Signature is its, "name:base64", over the
	// Fingerprint. Without By each key would have to be tried.
	By        string `json:"by"`
	Signature string `json:"sig"`
}

// Fingerprint is what the signature covers. Nothing else that a key of a cache
// signs begins like this.
func (s *KeyStatement) Fingerprint() string {
	what := "add;" + s.Add
	if s.Add == "" {
		what = "retire;" + s.Retire + ";" + strings.Join(s.Keeps, ",")
	}
	return "nixoci-key-1;" + what + ";" + s.Time.UTC().Format(time.RFC3339)
}

// valid reports whether s is a statement at all, whoever has signed it.
func (s *KeyStatement) valid() bool {
	if (s.Add == "") == (s.Retire == "") || s.Add != "" && len(s.Keeps) > 0 || len(s.Keeps) > maxKeeps {
		return false
	}
	for _, k := range append([]string{s.Add + s.Retire, s.By}, s.Keeps...) {
		if !statable(k) {
			return false
		}
	}
	// one text for each signature, or one statement would fill the place of many
	sig, err := signature.ParseSignature(s.Signature)
	return err == nil && sig.String() == s.Signature && len(s.Signature) <= maxKeyText+2*ed25519.SignatureSize && bincache.Printable(s.Signature)
}

// signer returns the key that has signed s, if it has.
func (s *KeyStatement) signer() (key, bool) {
	by, ok := parseKey(s.By)
	sig, err := signature.ParseSignature(s.Signature)
	return by, ok && err == nil && by.Verify(s.Fingerprint(), sig)
}

// KeyStatements are statements about keys. What is none is dropped when they are
// read: a cache stays readable, whatever somebody has written there.
type KeyStatements []KeyStatement

// UnmarshalJSON leaves out what is no statement. It never fails.
func (ks *KeyStatements) UnmarshalJSON(text []byte) error {
	*ks = nil
	var raw []json.RawMessage
	if json.Unmarshal(text, &raw) != nil {
		return nil
	}
	for _, r := range raw[:min(len(raw), 4*MaxKeyStatements)] {
		var s KeyStatement
		if json.Unmarshal(r, &s) == nil {
			*ks = ks.Merge(KeyStatements{s})
		}
	}
	return nil
}

// Merge returns the statements of both, each once, and at most MaxKeyStatements,
// those of ks first.
func (ks KeyStatements) Merge(more KeyStatements) KeyStatements {
	out := slices.Clip(ks)
	for _, s := range more {
		if len(out) < MaxKeyStatements && s.valid() && !slices.ContainsFunc(out, s.same) {
			out = append(out, s)
		}
	}
	return out
}

func (s *KeyStatement) same(o KeyStatement) bool {
	return s.Signature == o.Signature && s.By == o.By && s.Add == o.Add && s.Retire == o.Retire && s.Time.Unix() == o.Time.Unix() && slices.Equal(s.Keeps, o.Keeps)
}

// KeyChain says which keys of a cache are to be trusted by who trusts the first
// ones. Keys are "name:base64".
type KeyChain struct {
	// Trusted are the first keys and those that they have added, themselves or by
	// others, without the Retired ones.
	Trusted []string
	// Retired are those that a key of the chain has taken out.
	Retired []string
	// Unvouched are keys that the cache names, and that nobody in the chain has
	// added.
	Unvouched []string
	// Counted are the statements that a key of the chain has signed.
	Counted KeyStatements
}

// Keyless reports whether there is no key at all, so that nothing is signed. A
// chain without a trusted key is something else: then nothing is to be trusted.
func (c KeyChain) Keyless() bool { return len(c.Trusted)+len(c.Retired)+len(c.Unvouched) == 0 }

// key is a public key. One that has two names is one key: both are retired at
// once.
type key struct {
	signature.PublicKey
	text string
}

func parseKey(text string) (key, bool) {
	p, err := signature.ParsePublicKey(text)
	return key{p, text}, err == nil
}

// statable reports whether a key can stand in a statement, whose fingerprint has
// one meaning only.
func statable(text string) bool {
	k, ok := parseKey(text)
	return ok && len(text) <= maxKeyText && k.Name != "" && bincache.Printable(text) && !strings.ContainsAny(text, ";,") && k.String() == text
}

func (k key) id() string { return string(k.Data) }

func (k key) is(o key) bool { return bytes.Equal(k.Data, o.Data) }

func has(ks []key, k key) bool { return slices.ContainsFunc(ks, k.is) }

func texts(ks []key) []string {
	var out []string
	for _, k := range ks {
		out = append(out, k.text)
	}
	return out
}

// said is a statement that counts, with who has made it.
type said struct {
	by, add, retire key
	keeps           []key
}

// FollowKeys follows the statements from the first keys, roots. Named are the keys
// that the cache names. The order of statements says nothing, nor do their times:
// a key that is retired stays so, and two that retire each other are both out.
// Whoever has none of the keys can change nothing: what they have signed counts, and
// nothing else.
func FollowKeys(roots, named []string, statements KeyStatements) KeyChain {
	var first []key
	for _, text := range roots {
		if k, ok := parseKey(text); ok && !slices.Contains(texts(first), text) {
			first = append(first, k)
		}
	}
	chain := KeyChain{}
	counted := chain.count(first, statements)
	retired := map[string]map[string]bool{} // by the key's bytes: what all that retire it keep
	adds := map[string][]said{}             // by the bytes of who adds
	var gone []key
	for _, s := range counted {
		if s.retire.text == "" {
			adds[s.by.id()] = append(adds[s.by.id()], s)
			continue
		}
		keeps := map[string]bool{}
		kept, again := retired[s.retire.id()]
		for _, k := range s.keeps {
			if !again || kept[k.id()] {
				keeps[k.id()] = true
			}
		}
		retired[s.retire.id()] = keeps
		if !slices.Contains(texts(gone), s.retire.text) {
			gone = append(gone, s.retire)
		}
	}
	// a key is reached over those that have added it; one of them that is retired
	// must keep it, or the next on the way
	reaches := func(k key) bool {
		way, seen := slices.Clone(first), map[string]bool{}
		for i := 0; i < len(way); i++ {
			kept, out := retired[way[i].id()]
			for _, s := range adds[way[i].id()] {
				if seen[s.add.text] || out && !kept[k.id()] && !kept[s.add.id()] {
					continue
				}
				if s.add.text == k.text {
					return true
				}
				seen[s.add.text] = true
				way = append(way, s.add)
			}
		}
		return false
	}
	reached, tried := slices.Clone(first), map[string]bool{}
	for _, k := range first {
		tried[k.text] = true
	}
	for _, s := range counted {
		if k := s.add; k.text != "" && !tried[k.text] {
			if tried[k.text] = true; reaches(k) {
				reached = append(reached, k)
			}
		}
	}
	sorted := reached[len(first):]
	slices.SortFunc(sorted, func(a, b key) int { return strings.Compare(a.text, b.text) })
	for _, k := range reached {
		switch _, out := retired[k.id()]; {
		case !out:
			chain.Trusted = append(chain.Trusted, k.text)
		case !slices.Contains(texts(gone), k.text):
			gone = append(gone, k) // under another name
		}
	}
	chain.Retired = texts(gone)
	slices.Sort(chain.Retired)
	for _, text := range named {
		k, ok := parseKey(text)
		if !ok || !has(reached, k) && !has(gone, k) {
			chain.Unvouched = append(chain.Unvouched, text)
		}
	}
	return chain
}

// count finds the statements that the first keys have signed, or keys that they
// have added, also if these were retired: else the order would say something. What
// others say is not even verified.
func (c *KeyChain) count(first []key, statements KeyStatements) []said {
	of := map[string]KeyStatements{} // by the bytes of who is said to have signed them
	for _, s := range (KeyStatements)(nil).Merge(statements) {
		by, _ := parseKey(s.By)
		of[by.id()] = append(of[by.id()], s)
	}
	var out []said
	signers := slices.Clone(first)
	for i := 0; i < len(signers); i++ {
		id := signers[i].id()
		for _, s := range of[id] {
			by, ok := s.signer()
			if !ok {
				continue
			}
			one := said{by: by}
			one.add, _ = parseKey(s.Add)
			one.retire, _ = parseKey(s.Retire)
			for _, text := range s.Keeps {
				k, _ := parseKey(text)
				one.keeps = append(one.keeps, k)
			}
			if one.add.text != "" {
				signers = append(signers, one.add)
			}
			out, c.Counted = append(out, one), append(c.Counted, s)
		}
		delete(of, id)
	}
	return out
}

// FirstKeys are the keys that who knows none has to believe a cache: where there
// are statements, those that are in force among the keys that have made them; else
// all that it names.
func (c *Config) FirstKeys() []string {
	signers := c.signers()
	if signers == nil {
		return c.PublicKeys
	}
	return FollowKeys(signers, nil, c.KeyStatements).Trusted
}

// signers are the named keys that have made a statement.
func (c *Config) signers() (signers []string) {
	made := map[string]bool{}
	for _, s := range c.KeyStatements {
		if by, ok := s.signer(); ok {
			made[by.id()] = true
		}
	}
	for _, text := range c.PublicKeys {
		if k, ok := parseKey(text); ok && made[k.id()] {
			signers = append(signers, text)
		}
	}
	return signers
}

// Keys follows the statements from the first keys, roots. Of the keys that none of
// these has added, the Unvouched, it takes those for Retired that are so by what
// others say: the first keys of who comes late do not know what was before.
func (c *Config) Keys(roots []string) KeyChain {
	chain := FollowKeys(roots, c.PublicKeys, c.KeyStatements)
	if len(chain.Unvouched) == 0 {
		return chain
	}
	before := FollowKeys(c.signers(), nil, c.KeyStatements).Retired
	chain.Unvouched = slices.DeleteFunc(chain.Unvouched, func(k string) bool {
		if !slices.Contains(before, k) {
			return false
		}
		chain.Retired = append(chain.Retired, k)
		return true
	})
	return chain
}
