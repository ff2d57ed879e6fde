package many

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
)

// Credentials are what a client sent, by HTTP Basic, for the registry. They
// are held in memory while the cache that was opened with them is in use, and
// are neither logged nor written anywhere.
type Credentials struct{ User, Password string }

// String keeps a log from showing them.
func (Credentials) String() string { return "credentials" }

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

// credentialsOf returns what came with a request; nil if nothing did.
func credentialsOf(r *http.Request) *Credentials {
	user, password, ok := r.BasicAuth()
	if !ok || user == "" && password == "" {
		return nil
	}
	return &Credentials{user, password}
}

// identity tells users apart without saying who they are. The zero value is
// everybody who sends no credentials.
type identity [sha256.Size]byte

// identities makes identities of credentials, with a key that dies with the
// process, so that from an identity nobody finds a weak password by trying.
type identities struct{ key [32]byte }

func newIdentities() *identities {
	var i identities
	_, _ = rand.Read(i.key[:]) // never fails
	return &i
}

func (i *identities) of(c *Credentials) identity {
	if c == nil {
		return identity{}
	}
	mac := hmac.New(sha256.New, i.key[:])
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(c.User)))
	mac.Write(n[:]) // or "a" and "bc" were "ab" and "c"
	mac.Write([]byte(c.User))
	mac.Write([]byte(c.Password))
	return identity(mac.Sum(nil))
}
