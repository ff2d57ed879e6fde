package ghpackages

import (
	"errors"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever GitHub answers, the pause is bounded, and so are the words.
func FuzzAnswer(f *testing.F) {
	f.Add(403, "", "0", "1800000000", []byte(`{"message":"API rate limit exceeded"}`))
	f.Add(429, "9223372036854775807", "", "", []byte(`<html>`))
	f.Add(403, "", "0", "9223372036854775807", []byte(`{"message":"\ud800"}`))
	f.Add(422, "-1", "", "", []byte(`{"message":"You cannot delete the last tagged version"}`))
	f.Fuzz(func(t *testing.T, status int, after, remaining, reset string, body []byte) {
		resp := &http.Response{StatusCode: status, Header: http.Header{
			"Retry-After": {after}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset},
		}}
		err := answerError(resp, body)
		var limited *limitedError
		if errors.As(err, &limited) && (limited.wait < 0 || limited.wait > 24*time.Hour) {
			t.Errorf("waits %s", limited.wait)
		}
		if text := err.Error(); !utf8.ValidString(text) || len(text) > 2*maxWords {
			t.Errorf("says %q", text)
		}
	})
}
