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

// What is for one run opens after a time of failures that are not counted, too,
// and stays open.
func TestBreakerForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Breaker{After: 3, Patience: time.Minute, ForGood: true}
		for range 100 {
			if b.Retry() {
				t.Error("it opened at once")
			}
		}
		b.Report(false)
		time.Sleep(time.Minute)
		b.Report(true)
		if b.Retry() || b.Failing() != 0 {
			t.Error("it opened though there was a success")
		}
		time.Sleep(time.Minute)
		if b.Failing() != time.Minute || !b.Retry() {
			t.Error("it did not open after a minute of failures")
		}
		b.Report(true)
		time.Sleep(maxPause)
		if !b.Open() || b.Allow() {
			t.Error("it closed again")
		}
	})
}
