package indextest

import (
	"strconv"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/index/format"
)

// Person is somebody with a key.
type Person struct {
	Secret signature.SecretKey
	Public string // "name:base64"
}

// NewPerson makes a key.
func NewPerson(tb testing.TB, name string) Person {
	tb.Helper()
	secret, public, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return Person{secret, public.String()}
}

// People makes keys.
func People(tb testing.TB, n int) []Person {
	tb.Helper()
	var ps []Person
	for i := range n {
		ps = append(ps, NewPerson(tb, "key-"+strconv.Itoa(i)))
	}
	return ps
}

// Says signs a statement.
func (p Person) Says(s format.KeyStatement) format.KeyStatement {
	if s.Time.IsZero() {
		s.Time = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	s.By = p.Public
	sig, err := p.Secret.Sign(nil, s.Fingerprint())
	if err != nil {
		panic(err)
	}
	s.Signature = sig.String()
	return s
}

// Adds is a statement that q is a key as well.
func (p Person) Adds(q Person) format.KeyStatement { return p.Says(format.KeyStatement{Add: q.Public}) }

// Retires is a statement that q is a key no longer.
func (p Person) Retires(q Person, keeps ...Person) format.KeyStatement {
	s := format.KeyStatement{Retire: q.Public}
	for _, k := range keeps {
		s.Keeps = append(s.Keeps, k.Public)
	}
	return p.Says(s)
}

// KeysOf is a configuration with public keys, and what is said of them.
func KeysOf(named []Person, statements ...format.KeyStatement) format.Config {
	c := format.Config{KeyStatements: statements}
	for _, p := range named {
		c.PublicKeys = append(c.PublicKeys, p.Public)
	}
	return c
}
