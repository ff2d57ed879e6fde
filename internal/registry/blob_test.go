package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestBlob(t *testing.T) {
	data := content(100_000)
	noRanges := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Write(data)
		return true
	}
	sending := func(b []byte, length int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if length >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(length))
			}
			w.Write(b)
			w.(http.Flusher).Flush() // without a length: chunked
			return true
		}
	}
	partial := func(contentRange string, b []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			w.Write(b)
			return true
		}
	}
	longer := append(bytes.Clone(data), 'x')
	other := bytes.Clone(data)
	other[99_999]++

	tests := []struct {
		name           string
		offset, length int64
		answer         func(http.ResponseWriter, *http.Request) bool
		fails          string
	}{
		{name: "whole", length: -1},
		{name: "from the middle", offset: 70_000, length: -1},
		{name: "a part", offset: 10, length: 20},
		{name: "the start", offset: 0, length: 20},
		{name: "all of it by length", offset: 0, length: 100_000},
		{name: "no ranges, whole", length: -1, answer: noRanges},
		{name: "no ranges, from the middle", offset: 70_000, length: -1, answer: noRanges},
		{name: "no ranges, a part", offset: 10, length: 20, answer: noRanges},
		{name: "no ranges nor length, from the middle", offset: 70_000, length: -1, answer: sending(data, -1)},
		{name: "whole without a length", length: -1, answer: sending(data, -1)},
		{name: "wrong bytes", length: -1, answer: sending(other, -1), fails: "has the digest sha256:"},
		{name: "wrong bytes with a length", length: -1, answer: sending(other, len(other)), fails: "has the digest sha256:"},
		{name: "too few", length: -1, answer: sending(data[:500], 500), fails: "has the digest sha256:"},
		{name: "none", length: -1, answer: sending(nil, 0), fails: "has the digest sha256:"},
		{name: "fewer than announced", length: -1, answer: sending(data[:500], len(data)), fails: "unexpected EOF"},
		{name: "too many", length: -1, answer: sending(longer, -1), fails: "has the digest sha256:"},
		{name: "too many with a length", length: -1, answer: sending(longer, len(longer)), fails: "has the digest sha256:"},
		{name: "a part with too few", offset: 10, length: 20, answer: partial("bytes 10-29/100000", data[10:15]), fails: "too few bytes"},
		{name: "a part that is shorter than asked", offset: 99_990, length: 20, fails: "too few bytes"},
		{name: "the rest with too few", offset: 99_990, length: -1, answer: partial("bytes 99990-99999/100000", data[99_990:99_995]), fails: "too few bytes"},
		{name: "another part", offset: 10, length: 20, answer: partial("bytes 11-30/100000", data[11:31]), fails: "asked for bytes from 10"},
		{name: "a part of something", offset: 10, length: 20, answer: partial("", data[11:31]), fails: "asked for bytes from 10"},
		{name: "beyond the end", offset: 100_001, length: 20, fails: "416"},
		{name: "beyond the end without ranges", offset: 100_001, length: 20, answer: noRanges, fails: "too few bytes"},
		{name: "nothing", offset: 10, length: 0, fails: "there are no 0 bytes"},
		{name: "before the start", offset: -1, length: 1, fails: "from -1"},
		{name: "overflow", offset: 1 << 62, length: 1 << 62, fails: "there are no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			d := f.put(data)
			if tt.answer != nil {
				f.rules = append(f.rules, &rule{kind: "GET blob", times: 9, answer: tt.answer})
			}
			body, err := f.open().Blob(within(t, 5*time.Second), digestOf(t, d), tt.offset, tt.length)
			var got []byte
			if err == nil {
				defer body.Close()
				got, err = io.ReadAll(iotest.OneByteReader(body))
			}
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || errors.Is(err, ErrNotFound) {
					t.Errorf("got %d bytes, error %v; want one with %q", len(got), err, tt.fails)
				}
				return
			}
			want := data[tt.offset:]
			if tt.length >= 0 {
				want = want[:tt.length]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
			}
		})
	}
}

func TestBlobRetries(t *testing.T) {
	data := content(100_000)
	f := newFake(t,
		rule{kind: "GET blob", answer: answer(503, "X", "x")},
		rule{kind: "GET blob", answer: drop(0)},
	)
	var log bytes.Buffer
	f.opts.Logger = slog.New(slog.NewTextHandler(&log, nil)) // without --verbose
	d := f.put(data)
	body, err := f.open().Blob(within(t, 5*time.Second), digestOf(t, d), 5, 7)
	if log.Len() > 0 {
		t.Errorf("what has passed is told: %s", log.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data[5:12]) {
		t.Errorf("got %q, %v", got, err)
	}
}

// Once is tried once.
func TestOnce(t *testing.T) {
	f := newFake(t, rule{kind: "GET blob", answer: answer(503, "X", "x")})
	d := f.put(content(10))
	r := f.open()
	if _, err := r.Blob(Once(within(t, 5*time.Second)), digestOf(t, d), 5, 2); err == nil {
		t.Error("it was tried again")
	}
	body, err := r.Blob(within(t, 5*time.Second), digestOf(t, d), 5, 2)
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
}

func TestReadBlob(t *testing.T) {
	data := content(100_000)
	broken := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write(data[:50_000])
		return true
	}
	tests := []struct {
		name  string
		rules []rule
		size  int64
		gets  int
		fails string
	}{
		{name: "at once", size: 100_000, gets: 1},
		{name: "broken off twice", rules: []rule{{kind: "GET blob", times: 2, answer: broken}}, size: 100_000, gets: 3},
		{name: "broken off for good", rules: []rule{{kind: "GET blob", times: 9, answer: broken}}, size: 100_000, gets: 3, fails: "unexpected EOF"},
		{name: "longer than wanted", size: 99_999, gets: 1, fails: "it has 100000 bytes or more, not 99999"},
		{name: "shorter than wanted", size: 100_001, gets: 1, fails: "it has 100000 bytes or more, not 100001"},
		{name: "unwell for good", rules: []rule{{kind: "GET blob", times: 9, answer: answer(500, "X", "x")}}, size: 100_000, gets: 4, fails: "X: x"},
		{
			name: "endless", size: 1000, gets: 1, fails: "bytes or more",
			rules: []rule{{kind: "GET blob", answer: func(w http.ResponseWriter, r *http.Request) bool {
				for r.Context().Err() == nil {
					w.Write(data)
				}
				return true
			}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t, tt.rules...)
			d := f.put(data)
			r := f.open()
			if _, err := r.connect(t.Context(), r.session); err != nil {
				t.Fatal(err)
			}
			got, err := ReadBlob(within(t, 10*time.Second), r, digestOf(t, d), tt.size)
			if tt.fails == "" && (err != nil || !bytes.Equal(got, data)) || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
				t.Errorf("got %d bytes, %v; want an error with %q", len(got), err, tt.fails)
			}
			if n := len(f.requests()) - 1; n != tt.gets {
				t.Errorf("got %d requests, want %d", n, tt.gets)
			}
		})
	}
}

// Storage may be elsewhere; our credentials stay at the registry.
func TestBlobRedirect(t *testing.T) {
	data := content(100_000)
	var leaked string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			leaked = a
		}
		if r.URL.RawQuery != "X-Signature=a%2Fb" {
			t.Errorf("the signature came as %q", r.URL.RawQuery)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(storage.Close)
	byName := strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)
	for name, target := range map[string]string{"another port": storage.URL + "/x", "another host": byName + "/x", "same host": "/storage/x"} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.auth = true
			d := f.put(data)
			f.rules = []*rule{
				{kind: "GET blob", times: 2, answer: withHeader("Location", target+"?X-Signature=a%2Fb", answer(307, "", ""))},
				{kind: "GET /storage/x", times: 2, answer: func(w http.ResponseWriter, r *http.Request) bool {
					storage.Config.Handler.ServeHTTP(w, &http.Request{Method: r.Method, URL: r.URL, Header: http.Header{"Range": r.Header["Range"]}})
					return true
				}},
			}
			r := f.open()
			for _, part := range [][2]int64{{0, -1}, {10, 20}} {
				body, err := r.Blob(within(t, 5*time.Second), digestOf(t, d), part[0], part[1])
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(body)
				body.Close()
				want := data
				if part[1] > 0 {
					want = data[10:30]
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
			}
		})
	}
	if leaked != "" {
		t.Errorf("the storage got the credentials %q", leaked)
	}
}

func TestBlobSize(t *testing.T) {
	f := newFake(t)
	d := f.put(content(1234))
	r := f.open()
	if n, err := r.BlobSize(t.Context(), digestOf(t, d)); n != 1234 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	f.rules = []*rule{{kind: "HEAD blob", answer: func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Transfer-Encoding", "chunked")
		return true
	}}}
	if n, err := r.BlobSize(t.Context(), digestOf(t, d)); err == nil {
		t.Errorf("got %d of a registry that does not tell the size", n)
	}
}

func TestContentRange(t *testing.T) {
	for h, want := range map[string][3]int64{
		"bytes 0-0/1":   {0, 0, 1},
		"bytes 5-9/*":   {5, 9, 1},
		"bytes 5-9":     {},
		"bytes 9-5/10":  {},
		"bytes */10":    {},
		"bytes -5-9/10": {},
		"bytes 5--9/10": {},
		"bytes=5-9/10":  {},
		"bytes +5-9/10": {},
		"":              {},
		"bytes 0-9223372036854775807/9223372036854775808": {},
	} {
		a, b, ok := contentRange(h)
		if a != want[0] || b != want[1] || ok != (want[2] == 1) {
			t.Errorf("%q: got %d, %d, %v", h, a, b, ok)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, h string) {
		a, b, ok := contentRange(h)
		if ok && (a < 0 || b < a || b-a+1 <= 0) {
			t.Errorf("%q gives %d to %d", h, a, b)
		}
		if again := fmt.Sprintf("bytes %d-%d/*", a, b); ok {
			if a2, b2, ok := contentRange(again); !ok || a2 != a || b2 != b {
				t.Errorf("%q is not stable", h)
			}
		}
	})
}
