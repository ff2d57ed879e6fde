package httpd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// writeCertificate writes a certificate for the loopback address.
func writeCertificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newCertificate(t *testing.T, dir, name string) *Certificate {
	t.Helper()
	writeCertificate(t, dir, name)
	c, err := LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	b := newBlocking()
	reloads := make(chan os.Signal)
	r := start(t, Options{Handler: b, Certificate: newCertificate(t, dir, "old"), Reloads: reloads})
	r.Ready("")
	url := "https://" + r.addr
	// the name of the certificate that a new connection sees
	name := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("got %v", err)
	}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer c.CloseIdleConnections()
	answers := make(chan string, 1)
	go func() {
		resp, err := c.Get(url)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.ProtoMajor != 2 {
			t.Errorf("got %s, %v", resp.Proto, err)
		}
		answers <- string(body)
	}()
	<-b.come
	if got := name(); got != "old" {
		t.Fatalf("got %q", got)
	}

	writeCertificate(t, dir, "new")
	reloads <- syscall.SIGHUP
	eventually(t, "the new certificate", func() bool { return name() == "new" })
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	reloads <- syscall.SIGHUP
	reloads <- syscall.SIGHUP // taken when the one before is done
	if got := name(); got != "new" {
		t.Errorf("after a broken certificate: got %q", got)
	}
	close(b.leave)
	if got := <-answers; got != "first last" {
		t.Errorf("the request during the reloads got %q", got)
	}

	if conn, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is taken")
	}
	if _, err := LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err == nil {
		t.Error("a broken certificate: got no error")
	}
}
