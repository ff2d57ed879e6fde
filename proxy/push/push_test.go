package push_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/ulikunitz/xz"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
	"github.com/org/nixoci-action/internal/proxytest"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/registrytest"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/proxy"
	"github.com/org/nixoci-action/proxy/push"
)

// narOf is the NAR of a regular file.
func narOf(contents []byte) []byte {
	var b bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(contents), ")"} {
		_ = binary.Write(&b, binary.LittleEndian, uint64(len(s)))
		b.WriteString(s)
		b.Write(make([]byte, -len(s)&7))
	}
	return b.Bytes()
}

func compressed(tb testing.TB, how string, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case bincache.CompressionZstd:
		w, err = zstd.NewWriter(&b)
	case bincache.CompressionXZ:
		w, err = xz.NewWriter(&b)
	case bincache.CompressionGzip:
		w = gzip.NewWriter(&b)
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// pushed is a path as a client sends it.
type pushed struct {
	entry format.Entry
	file  []byte // the compressed NAR
}

// newPushed is a path whose NAR is that of a file with the given contents.
func newPushed(tb testing.TB, name, how string, contents []byte, refs ...string) pushed {
	nar := narOf(contents)
	file := compressed(tb, how, nar)
	e := proxytest.FileEntry(name, file, refs...)
	slices.Sort(e.References)
	e.NarHash, e.NarSize, e.Compression = bincache.FormatHash(proxytest.Sum(nar)), int64(len(nar)), how
	return pushed{e, file}
}

func (p *pushed) url() string     { return "/" + p.entry.URL() }
func (p *pushed) narinfo() string { return "/" + p.entry.Path.HashPart + ".narinfo" }
func (p *pushed) base() string    { return p.entry.Path.Base() }

// copyTo sends a path as `nix copy` does. It returns the first answer that is a
// refusal, or the last one.
func copyTo(h http.Handler, p pushed, header ...string) *httptest.ResponseRecorder {
	if proxytest.Get(h, http.MethodHead, p.url()).Code != http.StatusOK {
		if w := proxytest.Request(h, http.MethodPut, p.url(), p.file, header...); w.Code >= 300 {
			return w
		}
	}
	return proxytest.Request(h, http.MethodPut, p.narinfo(), []byte(p.entry.Narinfo()), header...)
}

// server takes pushes.
type server struct {
	*proxy.Server
	push *push.Receiver
}

type options struct {
	proxy.Options
	Push push.Options
}

// served is the entry that is served for a path.
func served(t *testing.T, h http.Handler, p pushed) format.Entry {
	t.Helper()
	w := proxytest.Get(h, http.MethodGet, p.narinfo())
	e, _, err := format.ParseNarinfo(w.Body.String())
	if w.Code != http.StatusOK || err != nil {
		t.Fatalf("%s: got %d, %s: %v", p.entry.Path, w.Code, w.Body, err)
	}
	return e
}

// newPushServer is a prepared server that takes pushes.
func newPushServer(tb testing.TB, repo registry.Repository, change ...func(*options)) server {
	tb.Helper()
	cache := index.Open(repo, index.Options{Settle: time.Millisecond})
	log := proxytest.LogTo(tb)
	o := options{
		proxy.Options{Index: cache, Blobs: repo, Cache: repo.String(), Version: "test", FirstByte: 2 * time.Second, Stall: 2 * time.Second, Logger: log},
		push.Options{Cache: cache, Repository: repo, Dir: filepath.Join(tb.TempDir(), "tmp"), Logger: log},
	}
	for _, f := range change {
		f(&o)
	}
	p := push.New(o.Push)
	o.Options.Push = p
	return server{prepared(tb, o.Options), p}
}

// newServer is a prepared server that only reads.
func newServer(tb testing.TB, repo registry.Repository) *proxy.Server {
	tb.Helper()
	return prepared(tb, proxy.Options{Index: index.Open(repo, index.Options{}), Blobs: repo})
}

func prepared(tb testing.TB, o proxy.Options) *proxy.Server {
	tb.Helper()
	s, err := proxy.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Prepare(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

func onBackends(t *testing.T, f func(t *testing.T, repo registry.Repository)) {
	t.Run("oci", func(t *testing.T) { f(t, proxytest.OpenRepo(t, "oci:"+t.TempDir())) })
	t.Run("ggcr", func(t *testing.T) { f(t, proxytest.OpenRepo(t, registrytest.GGCR(t)+"/a/b")) })
	t.Run("distribution", func(t *testing.T) { f(t, proxytest.OpenRepo(t, registrytest.NewDistribution(t).Addr+"/a/b")) })
}

func newKeys(tb testing.TB, name string) (signing.Keys, string) {
	tb.Helper()
	secret, _, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return signing.Keys{secret}, secret.ToPublicKey().String()
}

// What is pushed is served at once, and by others when the root is written; it
// is signed, and recorded when the server ends.
func TestPush(t *testing.T) {
	onBackends(t, func(t *testing.T, repo registry.Repository) {
		keys, public := newKeys(t, "server-1")
		s := newPushServer(t, repo, func(o *options) { o.Push.Keys = keys })
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		var all []pushed
		var refs []string
		for i, how := range []string{bincache.CompressionZstd, bincache.CompressionXZ, bincache.CompressionGzip, bincache.CompressionNone} {
			for _, size := range []int{1000, push.SmallNAR + 1000} {
				p := newPushed(t, fmt.Sprintf("p%d-%d", i, size), how, proxytest.RandomBytes(uint64(i), size), refs...)
				refs = []string{p.base()}
				all = append(all, p)
				if w := copyTo(s, p); w.Code != http.StatusCreated {
					t.Fatalf("%s: got %d, %s", p.entry.Path, w.Code, w.Body)
				}
				for range 2 { // it was just now
					if w := copyTo(s, p); w.Code != http.StatusOK {
						t.Errorf("%s again: got %d, %s", p.entry.Path, w.Code, w.Body)
					}
				}
				if w := proxytest.Get(s, http.MethodHead, p.url()); w.Code != http.StatusOK {
					t.Errorf("HEAD %s: got %d", p.url(), w.Code)
				}
			}
		}
		check := func(h http.Handler) {
			t.Helper()
			for _, p := range all {
				w := proxytest.Get(h, http.MethodGet, p.narinfo())
				e, url, err := format.ParseNarinfo(w.Body.String())
				if w.Code != http.StatusOK || err != nil || e.Fingerprint() != p.entry.Fingerprint() || !signing.SignedBy([]string{public}, e.Fingerprint(), e.Signatures) {
					t.Errorf("%s: got %d, %s", p.entry.Path, w.Code, w.Body)
				}
				if w := proxytest.Get(h, http.MethodGet, "/"+url); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), p.file) {
					t.Errorf("the NAR of %s: got %d, %d bytes, want %d", p.entry.Path, w.Code, w.Body.Len(), len(p.file))
				}
			}
		}
		check(s)
		if w := proxytest.Get(s, http.MethodGet, "/public-key"); strings.TrimSpace(w.Body.String()) != public {
			t.Errorf("public key: got %s", w.Body)
		}
		cancel()
		<-ended
		other := newServer(t, repo)
		check(other)
		pubs := other.Snapshot().Publications()
		if len(pubs) != 1 || len(pubs[0].Roots) != 1 || pubs[0].Roots[0].Path != refs[0] || pubs[0].Selection != "package=p3" {
			t.Errorf("got the publications %+v, want %s", pubs, refs[0])
		}
		if w := copyTo(s, newPushed(t, "late", bincache.CompressionNone, nil)); w.Code != http.StatusServiceUnavailable {
			t.Errorf("after the end: got %d", w.Code)
		}
	})
}

// While a client is at work the root follows, and what it pushed is recorded
// when it has come to rest.
func TestPushComesToRest(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	s := newPushServer(t, repo, func(o *options) { o.Push.Idle = 3 * time.Second; o.Push.Series = "ours" })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	a := newPushed(t, "a", bincache.CompressionNone, []byte("a"))
	b := newPushed(t, "b", bincache.CompressionNone, []byte("b"), a.base())
	for _, p := range []pushed{a, b} {
		if w := copyTo(s, p); w.Code != http.StatusCreated {
			t.Fatalf("got %d, %s", w.Code, w.Body)
		}
	}
	look := func(what string, ok func(*index.Snapshot) bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			snap, err := index.Open(repo, index.Options{}).Refresh(ctx) // as a reader does
			if err != nil {
				t.Fatal(err)
			}
			if ok(snap) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s after 20 seconds", what)
			}
		}
	}
	look("not in the root", func(s *index.Snapshot) bool { return s.Has(b.entry.Path.HashPart) })
	look("not recorded", func(s *index.Snapshot) bool {
		ps := s.Publications()
		return len(ps) == 1 && ps[0].Selection == "series=ours" && len(ps[0].Roots) == 1 && ps[0].Roots[0].Path == b.base()
	})
}

func TestPushIsOffByDefault(t *testing.T) {
	s := newServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	p := newPushed(t, "p", bincache.CompressionNone, nil)
	for _, path := range []string{p.url(), p.narinfo(), "/nix-cache-info", "/x"} {
		if w := proxytest.Request(s, http.MethodPut, path, []byte("x")); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: got %d, %v", path, w.Code, w.Header())
		}
	}
}

func TestPushAuthorization(t *testing.T) {
	const token = "0123456789abcdef0123456789abcdef"
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+password))
	}
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	open := newPushServer(t, repo)
	closed := newPushServer(t, repo, func(o *options) { o.Push.Tokens = []string{"another-token-of-ours", token} })
	for _, tc := range []struct {
		name   string
		s      server
		from   string
		header []string
		want   int
	}{
		{"this machine", open, "127.0.0.1:1", nil, 201},
		{"this machine, IPv6", open, "[::1]:1", nil, 201},
		{"elsewhere", open, "10.0.0.1:1", nil, 403},
		{"no address", open, "@", nil, 403},
		{"a page", open, "127.0.0.1:1", []string{"Origin", "http://127.0.0.1:37515"}, 403},
		{"a page of another site", open, "127.0.0.1:1", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"no token", closed, "127.0.0.1:1", nil, 401},
		{"a wrong token", closed, "10.0.0.1:1", []string{"Authorization", basic(token + "x")}, 401},
		{"an empty token", closed, "10.0.0.1:1", []string{"Authorization", basic("")}, 401},
		{"the token", closed, "10.0.0.1:1", []string{"Authorization", basic(token)}, 201},
		{"the token as a bearer's", closed, "127.0.0.1:1", []string{"Authorization", "Bearer " + token}, 201},
		{"the token in a page", closed, "10.0.0.1:1", []string{"Authorization", basic(token), "Origin", "null"}, 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPushed(t, tc.name[:2], bincache.CompressionNone, []byte(tc.name))
			r := httptest.NewRequest(http.MethodPut, p.url(), bytes.NewReader(p.file))
			r.RemoteAddr = tc.from
			for i := 0; i < len(tc.header); i += 2 {
				r.Header.Set(tc.header[i], tc.header[i+1])
			}
			w := httptest.NewRecorder()
			tc.s.ServeHTTP(w, r)
			if w.Code != tc.want || (w.Header().Get("WWW-Authenticate") != "") != (tc.want == 401) {
				t.Errorf("got %d, %v, %s; want %d", w.Code, w.Header(), w.Body, tc.want)
			}
			if strings.Contains(w.Body.String(), token) {
				t.Error("the answer shows the token")
			}
			if known := proxytest.Get(tc.s, http.MethodHead, p.url()).Code == 200; known != (tc.want == 201) {
				t.Errorf("the NAR is there: %v", known)
			}
		})
	}
}

// bzip2Of is the NAR of a file with an "x", compressed by bzip2, which Go's
// library cannot.
const bzip2Of = "425a68393141592653599e9c64df000020d9806cc2006220002ae5df602000486891a36536a1a34c8f53111a000000" +
	"19d16211557349991002c73bc0108183266dea7ac6ef97d2adbd7474a7dc0431603df094ff1772453850909e9c64df"

// What is wrong is refused with a line that says why, and nothing of it is
// kept.
func TestPushRefuses(t *testing.T) {
	dir := t.TempDir()
	repo := proxytest.OpenRepo(t, "oci:"+dir)
	tmp := filepath.Join(t.TempDir(), "tmp")
	s := newPushServer(t, repo, func(o *options) { o.Push.Dir = tmp; o.Push.MaxBlobSize = 2 << 20 })
	big := proxytest.RandomBytes(1, push.SmallNAR+1)
	there := newPushed(t, "there", bincache.CompressionNone, []byte("there"))
	if w := copyTo(s, there); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	var dictionary bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 2 * push.MaxDict}.NewWriter(&dictionary)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(narOf(big))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	raw := func(data []byte) (string, []byte) {
		e := proxytest.FileEntry("x", data)
		e.Compression = bincache.CompressionNone
		return "/" + e.URL(), data
	}
	nars := map[string]struct {
		data []byte
		want int
		text string
	}{
		"no NAR":               {[]byte("hello"), 415, "?compression=zstd"},
		"no NAR, large":        {big, 415, "?compression=zstd"},
		"zstd of no NAR":       {compressed(t, "zstd", []byte("hello, I am longer than a NAR's first bytes")), 400, "it is no NAR"},
		"zstd of no NAR, big":  {compressed(t, "zstd", big), 400, "it is no NAR"},
		"zstd cut off":         {compressed(t, "zstd", narOf(big))[:push.SmallNAR], 400, "cannot be read"},
		"xz cut off":           {compressed(t, "xz", narOf([]byte("x")))[:40], 400, "cannot be read"},
		"xz with junk":         {append(compressed(t, "xz", narOf([]byte("x"))), "junk"...), 400, "cannot be read"},
		"xz, large dictionary": {dictionary.Bytes(), 400, "dictionary of 134217728 bytes"},
		"gzip, damaged":        {append(compressed(t, "gzip", narOf([]byte("x"))), 1, 2, 3), 400, "cannot be read"},
		"lz4":                  {[]byte("\x04\x22\x4d\x18 and so on"), 415, "?compression=zstd"},
		"too large":            {make([]byte, 3<<20), 413, "over 2097152 bytes"},
		"empty":                {nil, 400, "empty"},
	}
	for name, tc := range nars {
		t.Run(name, func(t *testing.T) {
			path, data := raw(tc.data)
			w := proxytest.Request(s, http.MethodPut, path, data)
			refused(t, w, tc.want, tc.text)
			if proxytest.Get(s, http.MethodHead, path).Code != 404 {
				t.Error("it is there")
			}
		})
	}
	t.Run("another hash", func(t *testing.T) {
		for _, data := range [][]byte{narOf(nil), narOf(big)} {
			p := newPushed(t, "x", bincache.CompressionNone, []byte("y"))
			refused(t, proxytest.Request(s, http.MethodPut, p.url(), data), 400, "not what its name says")
		}
	})
	t.Run("no hash", func(t *testing.T) {
		for _, path := range []string{"/nar/x.nar", "/nar/", "/nar/" + strings.Repeat("e", 52) + ".nar"} {
			refused(t, proxytest.Request(s, http.MethodPut, path, narOf(nil)), 400, "named by its SHA-256")
		}
	})
	t.Run("no length", func(t *testing.T) {
		p := newPushed(t, "x", bincache.CompressionNone, []byte("y"))
		r := httptest.NewRequest(http.MethodPut, p.url(), io.MultiReader(bytes.NewReader(p.file)))
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		refused(t, w, 411, "length")
	})

	p := newPushed(t, "p", bincache.CompressionZstd, []byte("p"), there.base())
	if w := proxytest.Request(s, http.MethodPut, p.url(), p.file); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	info := p.entry.Narinfo()
	replace := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(info) }
	unknown := newPushed(t, "unknown", bincache.CompressionZstd, []byte("z"))
	for name, tc := range map[string]struct {
		info string
		want int
		text string
	}{
		"not a narinfo":          {"<html>", 400, "has the line"},
		"empty":                  {"", 400, "StorePath"},
		"too long":               {info + strings.Repeat("X: y\n", bincache.MaxNarinfo/5), 413, "longer"},
		"another path":           {replace(p.entry.Path.HashPart, there.entry.Path.HashPart), 400, "was announced"},
		"another store":          {replace("StorePath: /nix/store", "StorePath: /gnu/store"), 400, "in /nix/store was announced"},
		"two paths":              {info + "StorePath: /nix/store/" + there.base() + "\n", 400, "two lines"},
		"another NAR hash":       {replace(p.entry.NarHash, there.entry.NarHash), 400, "the narinfo says"},
		"another NAR size":       {replace("NarSize: ", "NarSize: 1"), 400, "the narinfo says"},
		"another compression":    {replace("Compression: zstd", "Compression: none"), 400, "compressed with zstd"},
		"a NAR that is not here": {replace(p.entry.URL(), unknown.entry.URL()), 409, "was not pushed"},
		"a NAR elsewhere":        {replace("URL: ", "URL: http://10.0.0.1/"), 400, "was pushed here"},
		"a reference not here":   {replace(there.base(), unknown.base()), 409, unknown.base()},
		"no reference":           {replace("References: ", "References: ../../x "), 400, "not the name of a store path"},
		"a CA that Nix refuses":  {info + "CA: garbage\n", 400, "CA"},
		"a strange CA":           {info + "CA: fixed:\x1b[31m\n", 400, "content address"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, proxytest.Request(s, http.MethodPut, p.narinfo(), []byte(tc.info)), tc.want, tc.text)
			if proxytest.Get(s, http.MethodGet, p.narinfo()).Code != 404 {
				t.Fatal("it is there")
			}
		})
	}
	for path, text := range map[string]string{
		"/x": "this file", "/_status": "this file", "/x.ls": "this file", "/nar/../x": "this file",
	} {
		refused(t, proxytest.Request(s, http.MethodPut, path, []byte("{}")), 405, text)
	}
	refused(t, proxytest.Request(s, http.MethodPut, "/nix-cache-info", []byte("StoreDir: /gnu/store\n")), 409, "/nix/store")
	if w := proxytest.Request(s, http.MethodPut, "/nix-cache-info", []byte("StoreDir: /nix/store\n")); w.Code != 200 {
		t.Errorf("nix-cache-info: got %d", w.Code)
	}
	if w := copyTo(s, p); w.Code != http.StatusCreated {
		t.Errorf("after all that: got %d, %s", w.Code, w.Body)
	}
	// what nobody needs and Nix would fail on is left out
	again := proxytest.Request(s, http.MethodPut, p.narinfo(), []byte(info+"Sig: a:b\x00c\nSig: nonsense\nDeriver: x\n"))
	if got := proxytest.Get(s, http.MethodGet, p.narinfo()).Body.String(); again.Code != http.StatusOK || got != p.entry.Narinfo() {
		t.Errorf("got %d, %s: %s", again.Code, again.Body, got)
	}

	entries, err := os.ReadDir(tmp)
	if err != nil || len(entries) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", entries, err)
	}
	// there's pack and p's; segments; the empty config: nothing large
	_ = filepath.WalkDir(filepath.Join(dir, "blobs"), func(path string, d fs.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil && !d.IsDir() && info.Size() > 10_000 {
			t.Errorf("%s was kept", path)
		}
		return nil
	})
}

func refused(t *testing.T, w *httptest.ResponseRecorder, want int, text string) {
	t.Helper()
	body := w.Body.String()
	if w.Code != want || !strings.Contains(body, text) || strings.Count(body, "\n") != 1 {
		t.Errorf("got %d, %q; want %d and one line with %q", w.Code, body, want, text)
	}
}

func TestPushBzip2(t *testing.T) {
	file, err := hex.DecodeString(bzip2Of)
	if err != nil {
		t.Fatal(err)
	}
	p := newPushed(t, "p", bincache.CompressionNone, []byte("x"))
	e := proxytest.FileEntry("p", file)
	p.file, p.entry.FileHash, p.entry.NAR, p.entry.Compression = file, e.FileHash, e.NAR, bincache.CompressionBzip2
	s := newPushServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	if w := copyTo(s, p); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	if w := proxytest.Get(s, http.MethodGet, p.url()); !bytes.Equal(w.Body.Bytes(), file) {
		t.Errorf("got %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestPushSignatures(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	ours, public := newKeys(t, "cache-1")
	theirs, theirPublic := newKeys(t, "other-1")
	strict := func(o *options) { o.Push.RequireSignatures, o.Push.TrustedKeys = true, []string{public} }
	p := newPushed(t, "p", bincache.CompressionNone, []byte("p"))
	proxytest.PutBlob(t, repo, []byte("x"))
	// whoever can write to the cache can make it name his key
	proxytest.Publish(t, repo, format.Config{PublicKeys: []string{public, theirPublic}}, proxytest.FileEntry("first", []byte("x")))
	s := newPushServer(t, repo, strict)
	refused(t, copyTo(s, p), 403, "is not signed by a key that the proxy trusts")
	signed := p
	sign := func(k signing.Keys, e format.Entry) []string {
		sigs, err := k.Sign(e.Fingerprint(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return sigs
	}
	signed.entry.Signatures = sign(theirs, p.entry)
	refused(t, copyTo(s, signed), 403, "is not signed by a key that the proxy trusts")
	own, _ := newKeys(t, "own-1")
	for name, keyed := range map[string]server{
		"a proxy with a key":    newPushServer(t, repo, func(o *options) { o.Push.RequireSignatures, o.Push.Keys = true, own }),
		"a proxy without a key": newPushServer(t, repo, func(o *options) { o.Push.RequireSignatures = true }),
	} {
		if w := copyTo(keyed, signed); w.Code != http.StatusForbidden {
			t.Errorf("%s: got %d, %s", name, w.Code, w.Body)
		}
	}
	signed.entry.Signatures = append(signed.entry.Signatures, sign(ours, p.entry)...)
	if w := copyTo(s, signed); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	if e := served(t, s, p); !slices.Equal(e.Signatures, signed.entry.Signatures) {
		t.Errorf("got the signatures %v, want both", e.Signatures)
	}

	// the same path, built with other contents
	other := newPushed(t, "p", bincache.CompressionNone, []byte("another build"))
	if !s.push.Settle(context.Background(), false, time.Minute) {
		t.Fatal("not settled")
	}
	lax := newPushServer(t, repo)
	refused(t, copyTo(lax, other), http.StatusConflict, "other contents")
	if e := served(t, lax, p); e.NarHash != p.entry.NarHash {
		t.Error("what is signed has given way to what is not")
	}
	q, q2 := newPushed(t, "q", bincache.CompressionNone, []byte("q")), newPushed(t, "q", bincache.CompressionNone, []byte("q2"))
	q2.entry.Signatures = sign(ours, q2.entry)
	for _, x := range []pushed{q, q2} {
		if w := copyTo(lax, x); w.Code != http.StatusCreated {
			t.Errorf("got %d, %s", w.Code, w.Body)
		}
	}
	if e := served(t, lax, q); e.NarHash != q2.entry.NarHash {
		t.Error("what is not signed has not given way to what is")
	}
}

// What an upstream has is not asked for, and may be referred to.
func TestPushUpstream(t *testing.T) {
	dep := newPushed(t, "dep", bincache.CompressionNone, []byte("dep"))
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != dep.narinfo() {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, dep.entry.Narinfo())
	}))
	defer up.Close()
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	p := newPushed(t, "p", bincache.CompressionNone, []byte("p"), dep.base())
	s := newPushServer(t, repo)
	refused(t, copyTo(s, p), 409, dep.base())
	s = newPushServer(t, repo, func(o *options) { o.Upstreams = []string{up.URL} })
	if w := proxytest.Get(s, http.MethodGet, dep.narinfo()); w.Code != http.StatusOK {
		t.Errorf("the upstream's narinfo: got %d", w.Code)
	}
	if w := copyTo(s, p); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	if !s.push.Settle(context.Background(), true, time.Minute) {
		t.Fatal("not settled")
	}
	// from now on the cache itself names the upstream
	s = newPushServer(t, repo)
	q := newPushed(t, "q", bincache.CompressionNone, []byte("q"), dep.base(), p.base())
	if w := copyTo(s, q); w.Code != http.StatusCreated {
		t.Errorf("got %d, %s", w.Code, w.Body)
	}
}

// While the registry is down nothing is acknowledged, and it is no refusal: Nix
// tries again.
func TestPushWithoutTheRegistry(t *testing.T) {
	k := &killable{Repository: proxytest.OpenRepo(t, "oci:"+t.TempDir())}
	s := newPushServer(t, k)
	small := newPushed(t, "small", bincache.CompressionNone, []byte("x"))
	large := newPushed(t, "large", bincache.CompressionNone, proxytest.RandomBytes(1, 2*push.SmallNAR))
	k.dead.Store(true)
	for _, p := range []pushed{small, large} {
		if w := copyTo(s, p); w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), errKilled.Error()) {
			t.Errorf("got %d, %s", w.Code, w.Body)
		}
		if w := proxytest.Get(s, http.MethodGet, p.narinfo()); w.Code != http.StatusNotFound {
			t.Errorf("%s: got %d", p.entry.Path, w.Code)
		}
	}
	if s.push.Settle(context.Background(), true, time.Second) {
		t.Error("settled without a registry")
	}
	k.dead.Store(false)
	for _, p := range []pushed{small, large} {
		if w := copyTo(s, p); w.Code != http.StatusCreated {
			t.Errorf("got %d, %s", w.Code, w.Body)
		}
	}
	if n := s.push.Active(); n != 0 {
		t.Errorf("%d pushes are taken to be under way", n)
	}
}

// A registry's collector may take a NAR before its path names it, and may have
// taken one that the index names. Both are asked for again.
func TestPushAfterALoss(t *testing.T) {
	dir := t.TempDir()
	s := newPushServer(t, proxytest.OpenRepo(t, "oci:"+dir))
	lose := func(p pushed) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, "blobs", "sha256", proxytest.DigestOf(p.file).Hex)); err != nil {
			t.Fatal(err)
		}
	}
	p := newPushed(t, "p", bincache.CompressionNone, proxytest.RandomBytes(1, 2*push.SmallNAR))
	if w := proxytest.Request(s, http.MethodPut, p.url(), p.file); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	lose(p)
	refused(t, proxytest.Request(s, http.MethodPut, p.narinfo(), []byte(p.entry.Narinfo())), 502, "copy it again")
	if w := proxytest.Get(s, http.MethodHead, p.url()); w.Code != http.StatusNotFound {
		t.Errorf("HEAD of a NAR that is lost: got %d", w.Code)
	}
	if w := copyTo(s, p); w.Code != http.StatusCreated {
		t.Fatalf("got %d, %s", w.Code, w.Body)
	}
	lose(p)
	same := newPushed(t, "same", bincache.CompressionNone, proxytest.RandomBytes(1, 2*push.SmallNAR))
	refused(t, copyTo(s, same), 502, "copy it again")
	if w := copyTo(s, same); w.Code != http.StatusCreated {
		t.Errorf("got %d, %s", w.Code, w.Body)
	}
}

// With --require-signatures the keys count for which those that were given vouch,
// whoever has written that into the cache; not those that were retired, nor what
// somebody without one of these keys says.
func TestPushSignaturesOfVouchedKeys(t *testing.T) {
	repo := proxytest.OpenRepo(t, "oci:"+t.TempDir())
	ps := indextest.People(t, 3)
	given, next, evil := ps[0], ps[1], ps[2]
	signed := func(name string, by indextest.Person) pushed {
		p := newPushed(t, name, bincache.CompressionNone, []byte(name))
		sig, err := by.Secret.Sign(nil, p.entry.Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		p.entry.Signatures = []string{sig.String()}
		return p
	}
	const no = "is not signed by a key that the proxy trusts"
	proxytest.PutBlob(t, repo, []byte("x"))
	proxytest.Publish(t, repo, indextest.KeysOf(ps[:1]), proxytest.FileEntry("first", []byte("x")))
	s := newPushServer(t, repo, func(o *options) { o.Push.RequireSignatures, o.Push.TrustedKeys = true, []string{given.Public} })
	refused(t, copyTo(s, signed("early", next)), 403, no)
	proxytest.Publish(t, repo, indextest.KeysOf(ps, evil.Adds(evil), given.Adds(next)), proxytest.FileEntry("second", []byte("x")))
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string]indextest.Person{"by the first": given, "by the next": next} {
		if w := copyTo(s, signed(strings.ReplaceAll(name, " ", "-"), by)); w.Code != http.StatusCreated {
			t.Errorf("%s: got %d, %s", name, w.Code, w.Body)
		}
	}
	refused(t, copyTo(s, signed("evil", evil)), 403, no)
	if !s.push.Settle(context.Background(), false, time.Minute) {
		t.Fatal("not settled")
	}
	proxytest.Publish(t, repo, indextest.KeysOf(nil, next.Retires(given, next)), proxytest.FileEntry("third", []byte("x")))
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(t, copyTo(s, signed("late", given)), 403, no)
	if w := copyTo(s, signed("later", next)); w.Code != http.StatusCreated {
		t.Errorf("got %d, %s", w.Code, w.Body)
	}
}
