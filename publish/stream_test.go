package publish

import (
	"slices"
	"testing"
)

// What is valid before anybody knows that it is an output is published when that
// is known.
func TestWantedLater(t *testing.T) {
	t.Parallel()
	for _, deps := range []bool{false, true} {
		s := (&publisher{Options: Options{BuildDeps: deps}}).newStream(t.Context(), nil, nil)
		s.want([]string{"a"})
		s.arrived([]string{"a", "b", "c"})
		s.want([]string{"b", "d"})
		s.want([]string{"b"})
		s.valid.close()
		want := []string{"a", "b"}
		if deps {
			want = append(want, "c")
		}
		if got := s.valid.take(t.Context()); !slices.Equal(got, want) {
			t.Errorf("with build dependencies %v: got %q, want %q", deps, got, want)
		}
	}
}

// What is put back takes the place of what was not taken, also in a closed queue.
func TestQueue(t *testing.T) {
	t.Parallel()
	q := newQueue[int]()
	q.put(1, 2)
	q.refill([]int{2, 3})
	q.close()
	if got := q.take(t.Context()); !slices.Equal(got, []int{2, 3}) || !q.isClosed() {
		t.Errorf("got %v", got)
	}
	q.put(4)
	if got := q.take(t.Context()); !slices.Equal(got, []int{4}) {
		t.Errorf("after the end: got %v", got)
	}
	if got := q.take(t.Context()); got != nil {
		t.Errorf("got %v from what is empty", got)
	}
}
