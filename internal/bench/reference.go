package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// referenceCommand is this program's other role: the simplest server that
// could stand in the proxy's place, in a process of its own as the proxy is.
const referenceCommand = "reference"

// referenceText is about as long as a narinfo.
var referenceText = strings.Repeat("Reference: text from memory\n", 25)

// serveReference answers "/" with a text from memory and passes everything
// else to the registry at addr, checking nothing. It prints its address.
func serveReference(ctx context.Context, addr string, stdout io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = nixConnections
	transport.DisableCompression = true
	pass := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: addr})
	}}
	srv := &http.Server{ReadHeaderTimeout: startTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			pass.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/x-nix-narinfo")
		w.Header().Set("Content-Length", strconv.Itoa(len(referenceText)))
		_, _ = io.WriteString(w, referenceText)
	})}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	fmt.Fprintln(stdout, l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startReference starts the reference server before a registry.
func startReference(d *distribution) (s *service, addr string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	s, first, err := start(os.Environ(), self, referenceCommand, d.addr)
	if err != nil {
		return nil, "", err
	}
	select {
	case addr = <-first:
		return s, addr, nil
	case <-s.exited:
	case <-time.After(startTimeout):
	}
	s.stop()
	return nil, "", errors.New("starting the reference server: " + s.stderr.String())
}
