package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		expect := func(when string, want bool) {
			t.Helper()
			if got := b.allow(); got != want {
				t.Errorf("%s: got %v, want %v", when, got, want)
			}
		}
		expect("new", true)
		b.report(false)
		expect("after one failure", true)
		b.report(true)
		b.report(false)
		expect("after failures that are not in a row", true)
		if !b.report(false) {
			t.Error("the second failure in a row did not open it")
		}
		expect("open", false)
		for range 100 { // requests that were under way
			b.report(false)
		}
		time.Sleep(minPause + time.Second)
		expect("one may try", true)
		expect("and only one", false)
		if b.report(false) {
			t.Error("it opened again while it was open")
		}
		expect("after the try failed", false)
		time.Sleep(minPause + time.Second)
		expect("after the first pause", false)
		time.Sleep(minPause)
		expect("after twice the pause one may try again", true)
		time.Sleep(maxPause)
		expect("that one never reported, so another may try", true)
		b.report(true)
		expect("closed", true)
		expect("for all", true)
	})
}

func TestExpiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExpiring(2)
		x.add("a", time.Minute)
		x.add("b", time.Hour)
		time.Sleep(2 * time.Minute)
		if x.has("a") || !x.has("b") {
			t.Errorf("after two minutes: a %v, b %v; want only b", x.has("a"), x.has("b"))
		}
		x.add("a", time.Minute)
		time.Sleep(2 * time.Minute)
		x.add("c", time.Minute) // full; a is old
		if !x.has("b") || !x.has("c") {
			t.Errorf("making room: b %v, c %v; want both", x.has("b"), x.has("c"))
		}
		x.reset()
		if x.has("b") {
			t.Error("b survived the reset")
		}
	})
}
