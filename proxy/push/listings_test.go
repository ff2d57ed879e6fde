package push

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/nixoci-action/internal/proxytest"
)

// Listings that wait are bounded, by their size and by time.
func TestListingsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newListings()
		for i := range 50 {
			x.hold(fmt.Sprint(i), &listing{doc: make([]byte, 1<<20)})
		}
		if x.Size() > listingsMemory || x.Len() < 10 || x.get("49") == nil || x.get("0") != nil {
			t.Errorf("%d bytes in %d listings", x.Size(), x.Len())
		}
		x.hold("huge", &listing{doc: make([]byte, listingsMemory)})
		x.hold("49", &listing{buildIDs: []string{proxytest.BuildID}})
		if x.get("huge") != nil || len(x.get("49").doc) != 0 || !x.names(proxytest.BuildID) {
			t.Error("the wrong ones are held")
		}
		old := x.get("49")
		x.hold("49", &listing{})
		x.drop("49", old)
		if x.get("49") == nil {
			t.Error("another one was dropped")
		}
		time.Sleep(2 * pendingFor)
		x.hold("new", &listing{})
		x.RemoveOld()
		if x.get("49") != nil || x.Len() != 1 {
			t.Error("an old one is still held")
		}
		x.drop("new", x.get("new"))
		if x.Size() != 0 {
			t.Errorf("%d bytes are counted for nothing", x.Size())
		}
	})
}
