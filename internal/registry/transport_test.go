package registry

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"140.82.121.33": true, "8.8.8.8": true, "2606:50c0:8000::153": true, "172.32.0.1": true, "192.169.0.1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "0.0.0.0": false, "::": false, "0.1.2.3": false,
		"10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "fd00::1": false, "fc00::1": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "100.64.0.1": false, "198.18.0.1": false, "255.255.255.255": false, "224.0.0.1": false, "ff02::1": false,
		"::ffff:10.0.0.1": false, "::ffff:8.8.8.8": true, "64:ff9b::a00:1": false, "2002:a00:1::": false, "::10.0.0.1": false, "192.0.2.1": false, "2001:db8::1": false,
	} {
		if got := public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %t, want %t", addr, got, want)
		}
	}
}

// Whatever leads to this machine is refused, and at once.
func TestPublicOnly(t *testing.T) {
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer s.Close()
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		repo, err := Open("http://"+host+port+"/a/b", Options{Transport: NewTransport(true)})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err = repo.Manifest(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "not a public address") {
			t.Errorf("%s: got %v", host, err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: it took %s", host, took)
		}
	}
	if asked {
		t.Error("the server was asked")
	}
	// the same server, named
	repo, err := Open("127.0.0.1"+port+"/a/b", Options{Transport: NewTransport(false)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Tags(t.Context()); err == nil || !asked {
		t.Errorf("got %v, asked: %t", err, asked)
	}
}

func TestHost(t *testing.T) {
	for cache, want := range map[string]struct {
		host            string
		plain, loopback bool
	}{
		"ghcr.io/o/r":                 {"ghcr.io", false, false},
		"localhost:5000/x":            {"localhost:5000", true, true},
		"127.0.0.1:5000/x":            {"127.0.0.1:5000", true, true},
		"[::1]:5000/x":                {"[::1]:5000", true, true},
		"10.0.0.1:5000/x":             {"10.0.0.1:5000", true, false},
		"a.localhost/x":               {"a.localhost", true, true},
		"http://registry.lan:5000/x":  {"registry.lan:5000", true, false},
		"https://registry.lan:5000/x": {"registry.lan:5000", false, false},
		"docker.io/a/b":               {"index.docker.io", false, false},
		"oci:/tmp/x":                  {},
		"nonsense":                    {},
	} {
		host := Host(cache)
		if host != want.host || Plain(cache) != want.plain || Loopback(host) != want.loopback {
			t.Errorf("%s: got %q, plain %t, loopback %t", cache, host, Plain(cache), Loopback(host))
		}
	}
}
