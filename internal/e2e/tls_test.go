package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a certificate for the loopback address, which is its own
// root, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
}

// Real Nix substitutes over TLS, and not from a server whose certificate
// it does not trust.
func TestTLSWithNix(t *testing.T) {
	t.Parallel()
	random := mathrand.New(mathrand.NewPCG(8, 8))
	w := newWorld(t)
	cert, key := certificate(t)
	cache := "oci:" + filepath.Join(t.TempDir(), "cache")
	paths := w.add("tls", noise(random, 1_500_000), noise(random, 3_000), noise(random, 4_000))
	w.publish(cache, paths...)
	log := filepath.Join(t.TempDir(), "access.log")
	conf := w.startProxy(cache, 2, "--tls-cert", cert, "--tls-key", key, "--access-log", log)
	if !strings.HasPrefix(conf, "extra-substituters = https://127.0.0.1:") {
		t.Fatalf("got %q", conf)
	}
	if out, err := w.newClient(conf).nix("build", "--no-link", paths[0]); err == nil {
		t.Errorf("a certificate that is not trusted: %s", out)
	}
	w.Vars = append(w.Vars, "NIX_SSL_CERT_FILE="+cert)
	w.newClient(conf).substitute(paths...)
	if b, err := os.ReadFile(log); err != nil || strings.Count(string(b), `"path":"/nar/`) != len(paths) {
		t.Errorf("got %v, %s", err, b)
	}
}
