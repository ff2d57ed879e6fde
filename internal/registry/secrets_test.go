package registry

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/internal/hint"
)

// No failure of any request, and no line of the log, shows a credential, a
// token, or the signature in a URL.
func TestSecrets(t *testing.T) {
	const signature = "X-Amz-Signature=s3cr3t-signature"
	ways := map[string]func(http.ResponseWriter, *http.Request) bool{
		"dropped":   drop(0),
		"unwell":    answer(500, "X", "x"),
		"denied":    answer(403, "DENIED", "x"),
		"unknown":   answer(404, "X", "x"),
		"stalled":   hang,
		"nonsense":  answer(418, "", strings.Repeat("<html>", 10_000)),
		"elsewhere": withHeader("Location", "http://user:hunter2-password@127.0.0.1:1/x?"+signature, answer(307, "", "")),
		"created":   answer(201, "", ""), // where it is not wanted
		"no length": func(w http.ResponseWriter, _ *http.Request) bool { w.Write(nil); return true },
		"refused": func(w http.ResponseWriter, r *http.Request) bool {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(401)
			return true
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, op := range operations {
				f := newFake(t, rule{kind: op.kind, times: 99, answer: way})
				f.auth = true
				d := f.put(content(100_000))
				var log syncBuffer
				f.opts.Logger = logTo(&log)
				r := f.open()
				r.setStall(30 * time.Millisecond)
				r.retry.tries = 2
				err := op.do(within(t, 10*time.Second), r, digestOf(t, d))
				text := log.String()
				if err != nil {
					text += err.Error() + hint.Of(err)
					if n := len(err.Error()); n > 2*maxErrorText {
						t.Errorf("%s: an error of %d bytes", op.name, n)
					}
				}
				f.mu.Lock() // requests that were given up may still be served
				secrets := append(slices.Clone(f.secrets), "s3cr3t", state, "_state=a")
				f.mu.Unlock()
				for _, s := range secrets {
					if strings.Contains(text, s) {
						t.Errorf("%s: %q is in\n%s", op.name, s, text)
					}
				}
			}
		})
	}
}

// The log tells each request, and why one is repeated.
func TestLog(t *testing.T) {
	f := newFake(t, rule{kind: "POST upload", answer: answer(500, "X", "gremlins")})
	var log syncBuffer
	f.opts.Logger = logTo(&log)
	if _, err := f.open().PutBlob(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"level=DEBUG msg=\"registry request\" method=PUT", "trying again", "gremlins", "try=1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in\n%s", want, log.String())
		}
	}
}
