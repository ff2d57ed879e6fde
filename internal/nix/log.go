package nix

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"
)

// Requisites returns the closure of one store path: itself and all that it
// refers to, what is referred to first.
func (c *Client) Requisites(ctx context.Context, path string) ([]string, error) {
	if err := checkPaths([]string{path}); err != nil {
		return nil, fmt.Errorf("asking for the closure of a path: %w", err)
	}
	lines, err := c.paths(ctx, []string{"--query", "--requisites", path})
	if err != nil {
		return nil, fmt.Errorf("asking for the closure of %s: %w", path, err)
	}
	return lines, nil
}

// Referrers returns the store paths whose closures one store path is in: itself,
// and all that refers to it.
func (c *Client) Referrers(ctx context.Context, path string) ([]string, error) {
	if err := checkPaths([]string{path}); err != nil {
		return nil, fmt.Errorf("asking what needs a path: %w", err)
	}
	lines, err := c.paths(ctx, []string{"--query", "--referrers-closure", path})
	if err != nil {
		return nil, fmt.Errorf("asking what needs %s: %w", path, err)
	}
	return lines, nil
}

// WholeLog returns what the build of a derivation printed on this machine, byte
// for byte. Of a log of more than limit bytes the middle is left out, and a line
// says so. The error is or wraps a *CommandError if there is no log.
func (c *Client) WholeLog(ctx context.Context, drv string, limit int) ([]byte, error) {
	if err := checkPaths([]string{drv}); err != nil {
		return nil, fmt.Errorf("reading a build log: %w", err)
	}
	ends := &ends{half: limit / 2}
	if c.logFile(drv, ends) {
		return ends.bytes(), nil
	}
	ends.reset()
	err := c.run(ctx, command{program: "nix-store", args: []string{"--read-log", drv}, quiet: true}, func(r io.Reader) error {
		_, err := io.Copy(ends, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the build log of %s: %w", drv, err)
	}
	return ends.bytes(), nil
}

// logFile reads a log from where Nix keeps it. A process for each of a thousand
// logs takes half a minute, so Nix is asked only where that fails: it may keep
// them elsewhere, or not let this user read them.
func (c *Client) logFile(drv string, log *ends) bool {
	dir := cmp.Or(envValue(c.env, "NIX_LOG_DIR"), "/nix/var/log/nix")
	base := path.Base(drv)
	name := filepath.Join(dir, "drvs", base[:2], base[2:])
	f, err := os.Open(name + ".bz2")
	compressed := err == nil
	if err != nil {
		if f, err = os.Open(name); err != nil { // compress-build-log = false
			return false
		}
	}
	defer f.Close()
	if !compressed {
		return copyLog(log, f)
	}
	small, err := io.ReadAll(io.LimitReader(f, smallLog))
	if err != nil {
		return false
	}
	if len(small) < smallLog {
		return unpackSmall(log, small)
	}
	return copyLog(log, bzip2.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(small), f))))
}

// smallLog is how much of a log's file is read before anything is unpacked, in
// bytes.
const smallLog = 16 << 10

// unpackSmall unpacks a log. The reader allocates four bytes for each of the
// largest block that the header allows: 3.6 MB, which for thousands of logs of a
// few lines is most of a publish. So it is told that blocks are the smallest
// first. It refuses a block that is larger.
func unpackSmall(log *ends, file []byte) bool {
	const (
		level = 3 // where in the header it stands
		empty = "\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00"
	)
	if len(file) > level && string(file[level+1:]) == empty { // as most builds leave
		return true
	}
	if len(file) > level {
		least := slices.Clone(file)
		least[level] = '1'
		if copyLog(log, bzip2.NewReader(bytes.NewReader(least))) {
			return true
		}
		log.reset()
	}
	return copyLog(log, bzip2.NewReader(bytes.NewReader(file)))
}

func copyLog(log *ends, r io.Reader) bool {
	n, err := io.Copy(log, io.LimitReader(r, maxLogFile))
	return err == nil && n < maxLogFile
}

// maxLogFile bounds what is decompressed of a log, in bytes.
const maxLogFile = 1 << 30

// ends keeps the beginning and the end of what is written to it.
type ends struct {
	half        int // bytes of each
	first, last []byte
	cut         int64 // bytes left out between them
}

func (e *ends) Write(p []byte) (int, error) {
	n := len(p)
	k := min(n, e.half-len(e.first))
	e.first, p = append(e.first, p[:k]...), p[k:]
	e.last = append(e.last, p...)
	if len(e.last) > 2*e.half { // seldom, so that little is copied
		e.shorten()
	}
	return n, nil
}

func (e *ends) reset() { *e = ends{half: e.half} }

func (e *ends) shorten() {
	if over := len(e.last) - e.half; over > 0 {
		e.last = append(e.last[:0], e.last[over:]...)
		e.cut += int64(over)
	}
}

func (e *ends) bytes() []byte {
	e.shorten()
	if e.cut == 0 {
		return append(e.first, e.last...)
	}
	return slices.Concat(e.first, fmt.Appendf(nil, "\n[… %d bytes of this log were left out …]\n", e.cut), e.last)
}

// Built returns the paths that were built on this machine, not substituted or
// copied, and others that became valid at the given time or later. Time is
// counted in whole seconds: what came in the second before since may be among
// them. Derivations and sources are in neither.
func (c *Client) Built(ctx context.Context, since time.Time) (built, fetched []string, err error) {
	v, err := c.Version(ctx)
	if err != nil {
		return nil, nil, err
	}
	cmd := command{program: "nix", args: []string{"path-info", "--json", "--all"}}
	if v.hasJSONFormat() {
		cmd.args = append(cmd.args, "--json-format", "1")
	}
	infos, _, err := c.pathInfo(ctx, cmd)
	if err != nil {
		return nil, nil, fmt.Errorf("reading path information: %w", err)
	}
	since = since.Truncate(time.Second)
	for _, i := range infos {
		switch {
		case i.Registered.Before(since):
		case i.Ultimate:
			built = append(built, i.Path)
		case i.Deriver != "" || len(i.Signatures) > 0:
			fetched = append(fetched, i.Path)
		}
	}
	return built, fetched, nil
}
