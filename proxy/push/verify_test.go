package push_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/proxytest"
)

// An ordinary NAR does not wait for those that make much of little, however many
// they are. These are taken as well if they are not too large.
func TestPushBesideBombs(t *testing.T) {
	s := newPushServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	s.push.Expand(1<<20, 4<<20)
	release := s.push.HoldExpanding()
	answers := make(chan *httptest.ResponseRecorder, 100)
	const bombs = 40
	var sent sync.WaitGroup
	for i := range bombs {
		size := 2 << 20
		if i%2 == 1 {
			size = 8 << 20
		}
		p := newPushed(t, fmt.Sprintf("bomb-%d", i), bincache.CompressionZstd, bytes.Repeat([]byte{byte(i)}, size))
		sent.Go(func() { answers <- copyTo(s, p) })
	}
	client := "127.0.0.1" // of proxytest
	for end := time.Now().Add(20 * time.Second); s.push.Expanders(client) < bombs; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d wait, of %d", s.push.Expanders(client), bombs)
		}
	}
	if w := copyTo(s, newPushed(t, "honest", bincache.CompressionZstd, []byte("honest"))); w.Code != http.StatusCreated {
		t.Errorf("an honest push: got %d, %s", w.Code, w.Body)
	}
	if len(answers) > 0 {
		t.Errorf("%d were answered before", len(answers))
	}
	release()
	sent.Wait()
	codes := map[int]int{}
	for range bombs {
		w := <-answers
		if codes[w.Code]++; w.Code >= 300 {
			refused(t, w, http.StatusRequestEntityTooLarge, "unpacks to more than 4194304 bytes")
		}
	}
	if codes[http.StatusCreated] != bombs/2 {
		t.Errorf("got %v", codes)
	}
}

// Of different contents for one path one is taken. The same contents may come
// as often as they like.
func TestPushOfOnePathAtOnce(t *testing.T) {
	s := newPushServer(t, proxytest.OpenRepo(t, "oci:"+t.TempDir()))
	answers := make(chan *httptest.ResponseRecorder, 100)
	var sent sync.WaitGroup
	for i := range 16 {
		p := newPushed(t, fmt.Sprintf("one-%d", i/2), bincache.CompressionZstd, []byte{byte(i / 2)})
		p.entry.Path = newPushed(t, "one", bincache.CompressionZstd, nil).entry.Path
		p.entry.References = nil
		sent.Go(func() { answers <- copyTo(s, p) })
	}
	sent.Wait()
	yes := 0
	for range 16 {
		if w := <-answers; w.Code < 300 {
			yes++
		} else {
			refused(t, w, http.StatusConflict, "other contents")
		}
	}
	if yes != 2 {
		t.Errorf("%d were told yes, want the two with the contents that are served", yes)
	}
}
