package e2e

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// cutter passes connections on to a server, and cuts off the first NAR that is
// larger than a limit in the middle of its body.
type cutter struct {
	addr, server string
	limit        int

	mu   sync.Mutex
	cut  bool
	seen []string
}

func newCutter(t testing.TB, server string, limit int) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := &cutter{addr: l.Addr().String(), server: server, limit: limit}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go c.pass(client)
		}
	}()
	return c
}

// traffic is what was said about NARs: request lines, Range headers, status
// lines, in this order for each request.
func (c *cutter) traffic() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

func (c *cutter) say(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, line)
}

func (c *cutter) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()

	var mu sync.Mutex // of the request that is under way
	var nar, answered bool
	var sent int
	go func() {
		defer server.Close()
		r := bufio.NewReader(client)
		for { // Nix sends no bodies here
			line, err := r.ReadString('\n')
			text := strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(text, "GET ") || strings.HasPrefix(text, "HEAD "):
				mu.Lock()
				nar, answered, sent = strings.HasPrefix(text, "GET /nar/"), false, 0
				mu.Unlock()
				if strings.HasPrefix(text, "GET /nar/") {
					c.say(text)
				}
			case strings.HasPrefix(text, "Range: "):
				c.say(text)
			}
			if _, writeErr := io.WriteString(server, line); err != nil || writeErr != nil {
				return
			}
		}
	}()

	b := make([]byte, 32<<10)
	for {
		n, err := server.Read(b)
		if n > 0 {
			mu.Lock()
			if nar && !answered {
				status, _, _ := bytes.Cut(b[:n], []byte("\r\n"))
				c.say(string(status))
			}
			answered = true
			sent += n
			over := nar && sent > c.limit && c.take()
			mu.Unlock()
			if over {
				return
			}
			if _, err := client.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// take says whether this is the one to cut off.
func (c *cutter) take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.cut
	c.cut = true
	return !was
}
