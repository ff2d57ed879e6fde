package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		expect := func(when string, want bool) {
			t.Helper()
			if got := b.Allow(); got != want {
				t.Errorf("%s: got %v, want %v", when, got, want)
			}
		}
		expect("new", true)
		b.Report(false)
		expect("after one failure", true)
		b.Report(true)
		b.Report(false)
		expect("after failures that are not in a row", true)
		if !b.Report(false) {
			t.Error("the second failure in a row did not open it")
		}
		expect("open", false)
		for range 100 { // requests that were under way
			b.Report(false)
		}
		time.Sleep(minPause + time.Second)
		expect("one may try", true)
		expect("and only one", false)
		if b.Report(false) {
			t.Error("it opened again while it was open")
		}
		expect("after the try failed", false)
		time.Sleep(minPause + time.Second)
		expect("after the first pause", false)
		time.Sleep(minPause)
		expect("after twice the pause one may try again", true)
		time.Sleep(maxPause)
		expect("that one never reported, so another may try", true)
		b.Report(true)
		expect("closed", true)
		expect("for all", true)
	})
}
