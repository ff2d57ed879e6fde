package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const registryProgram = "docker-registry"

// distribution is a registry on loopback. It shares the machine with what is
// measured, as no real one does.
type distribution struct {
	*service
	dir     string
	addr    string
	metrics string
}

func startDistribution(ctx context.Context, dir string) (*distribution, error) {
	d := &distribution{dir: filepath.Join(dir, "registry")}
	for _, addr := range []*string{&d.addr, &d.metrics} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*addr = l.Addr().String()
		l.Close()
	}
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http:
  addr: %s
  debug: {addr: %s, prometheus: {enabled: true, path: /metrics}}
`, d.dir, d.addr, d.metrics)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var err error
	if d.service, _, err = start(os.Environ(), registryProgram, "serve", config); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline) && ctx.Err() == nil && d.running(); {
		if _, err = get(ctx, "http://"+d.addr+"/v2/"); err == nil {
			return d, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	d.stop()
	return nil, fmt.Errorf("starting the registry: %w: %s", err, strings.TrimSpace(d.stderr.String()))
}

// cache names a repository of the registry, as --cache takes it.
func (d *distribution) cache(name string) string { return d.addr + "/bench/" + name }

// folder is where the registry has what cache names, but for the blobs.
func (d *distribution) folder(name string) string {
	return filepath.Join(d.dir, "docker", "registry", "v2", "repositories", "bench", name)
}

// requests is how many requests the registry has answered, by its own count.
func (d *distribution) requests(ctx context.Context) (int64, error) {
	text, err := get(ctx, "http://"+d.metrics+"/metrics")
	if err != nil {
		return 0, fmt.Errorf("counting the registry's requests: %w", err)
	}
	return sumMetric(text, "registry_http_requests_total")
}

// sumMetric adds up a counter over all its labels, in Prometheus's text format.
func sumMetric(text, name string) (int64, error) {
	sum := 0.0
	found := false
	for line := range strings.Lines(text) {
		labels, ok := strings.CutPrefix(line, name+"{")
		if !ok {
			continue
		}
		_, value, ok := strings.Cut(labels, "} ")
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("metric line %q", strings.TrimSpace(line))
		}
		sum, found = sum+n, true
	}
	if !found {
		return 0, errors.New("there is no metric " + name)
	}
	return int64(sum), nil
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}
