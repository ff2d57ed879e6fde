// Package signing signs store paths as Nix does: Ed25519 over a path's
// fingerprint (Nix manual, "Serving a Nix store via HTTP", signatures).
package signing

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/org/nixoci-action/internal/hint"
)

// Keys are secret keys. They never print themselves.
type Keys []signature.SecretKey

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 64 << 10

// Load reads the key files, and the keys in text, one a line. Each key is
// "name:base64", as `nix key generate-secret` prints it. Errors show no part
// of a key.
func Load(files []string, text string) (Keys, error) {
	var keys Keys
	for _, name := range files {
		b, err := readFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading a signing key: %w", err)
		}
		ks, err := parse(string(b))
		if err == nil && len(ks) == 0 {
			err = fmt.Errorf("it is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("reading the signing key in %s: %w", name, err)
		}
		keys = append(keys, ks...)
	}
	ks, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key from the environment: %w", err)
	}
	return append(keys, ks...), nil
}

// readFile reads a file with keys.
func readFile(name string) ([]byte, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is too large to be a key", name)
	}
	return os.ReadFile(name)
}

func parse(text string) (Keys, error) {
	var keys Keys
	for _, line := range strings.Fields(text) {
		k, err := signature.LoadSecretKey(line)
		name, _, _ := strings.Cut(line, ":")
		if err != nil || name == "" || name == line {
			// the library's error could quote the key
			return nil, hint.Wrap(fmt.Errorf("it is no secret key"), "make one with `nix-store --generate-binary-cache-key NAME SECRET-FILE PUBLIC-FILE`")
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// PublicKeys returns the keys' public halves, "name:base64".
func (ks Keys) PublicKeys() []string {
	var out []string
	for _, k := range ks {
		out = append(out, k.ToPublicKey().String())
	}
	return out
}

// Sign returns sigs with the signature of each key over fingerprint added. Any
// other one under a key's name is replaced by it.
func (ks Keys) Sign(fingerprint string, sigs []string) ([]string, error) {
	out := slices.Clone(sigs)
	for _, k := range ks {
		sig, err := k.Sign(nil, fingerprint)
		if err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
		if slices.Contains(out, sig.String()) {
			continue
		}
		out = slices.DeleteFunc(out, func(s string) bool { return named(k, s) })
		out = append(out, sig.String())
	}
	return out, nil
}

// Signed reports whether sigs has the signature of every key. A key makes one
// signature over a fingerprint, so it is made again and compared: that takes less
// than half the time of verifying one.
func (ks Keys) Signed(fingerprint string, sigs []string) bool {
	return !slices.ContainsFunc(ks, func(k signature.SecretKey) bool {
		if !slices.ContainsFunc(sigs, func(s string) bool { return named(k, s) }) {
			return true
		}
		sig, err := k.Sign(nil, fingerprint)
		return err != nil || !slices.Contains(sigs, sig.String())
	})
}

// named reports whether a signature has the name of a key.
func named(k signature.SecretKey, sig string) bool {
	return strings.HasPrefix(sig, k.ToPublicKey().Name+":")
}

// Trusted returns the public halves of ks, and the public keys given, each once:
// the keys whose signatures count for a signer. What is given is "name:base64", or
// a file with such keys, as a path that begins with / or a dot. Its error names
// every one that is no public key.
func (ks Keys) Trusted(given []string) ([]string, error) {
	trusted := ks.PublicKeys()
	var errs []error
	given, err := expand(given)
	errs = append(errs, err)
	for _, k := range given {
		if _, err := signature.ParsePublicKey(k); err != nil || strings.HasPrefix(k, ":") || strings.ContainsAny(k, " \t\r\n") {
			name, _, ok := strings.Cut(k, ":")
			if !ok {
				name = "what has no name" // it could be a secret
			}
			errs = append(errs, hint.Wrap(fmt.Errorf("%s is no public key", name), "a public key is NAME:BASE64, as `nix key convert-secret-to-public` prints it"))
			continue
		}
		if !slices.Contains(trusted, k) {
			trusted = append(trusted, k)
		}
	}
	return trusted, errors.Join(errs...)
}

// expand puts the keys in files in the place of the files.
func expand(given []string) (keys []string, err error) {
	var errs []error
	for _, k := range given {
		if !strings.HasPrefix(k, "/") && !strings.HasPrefix(k, "./") && !strings.HasPrefix(k, "../") {
			keys = append(keys, k)
			continue
		}
		b, err := readFile(k)
		if err != nil && strings.HasSuffix(k, "=") {
			err = errors.New("there is no such file") // it could be part of a secret
		}
		if err == nil && len(strings.Fields(string(b))) == 0 {
			err = fmt.Errorf("%s is empty", k)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading public keys: %w", err))
		}
		keys = append(keys, strings.Fields(string(b))...)
	}
	return keys, errors.Join(errs...)
}

// SignedBy reports whether sigs has a valid signature of one of the public
// keys, "name:base64". What is no key signs nothing.
func SignedBy(publicKeys []string, fingerprint string, sigs []string) bool {
	return slices.ContainsFunc(publicKeys, func(k string) bool {
		pub, err := signature.ParsePublicKey(k)
		return err == nil && signedBy(pub, fingerprint, sigs)
	})
}

func signedBy(pub signature.PublicKey, fingerprint string, sigs []string) bool {
	return slices.ContainsFunc(sigs, func(s string) bool {
		sig, err := signature.ParseSignature(s)
		return err == nil && pub.Verify(fingerprint, sig)
	})
}
