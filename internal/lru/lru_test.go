package lru

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestSize(t *testing.T) {
	m := New[string](10, func(s string) int64 { return int64(len(s)) })
	m.Put("a", "1234")
	m.Put("b", "1234")
	m.Get("a")
	m.Has("b")
	m.Put("c", "1234") // b was not used for longest
	if m.Has("b") || !m.Has("a") || !m.Has("c") || m.Len() != 2 || m.Size() != 8 {
		t.Errorf("got %d of %d bytes", m.Len(), m.Size())
	}
	m.Put("a", "1") // in the place of the old one
	if v, _ := m.Get("a"); v != "1" || m.Size() != 5 {
		t.Errorf("got %q, and %d bytes", v, m.Size())
	}
	m.Put("c", "12345678901") // larger than all
	if m.Has("c") || m.Len() != 1 || m.Size() != 1 {
		t.Errorf("got %d of %d bytes", m.Len(), m.Size())
	}
	m.Remove("a")
	m.Remove("a")
	if m.Len() != 0 || m.Size() != 0 {
		t.Errorf("got %d of %d bytes", m.Len(), m.Size())
	}
}

func TestNumber(t *testing.T) {
	m := New[int, int](3, nil)
	for i := range 10 {
		m.Put(i, i)
	}
	all := slices.Sorted(m.Values())
	if !slices.Equal(all, []int{7, 8, 9}) {
		t.Errorf("got %v", all)
	}
	m.Clear()
	m.Put(1, 1)
	if m.Len() != 1 || m.Size() != 1 {
		t.Errorf("got %d of %d", m.Len(), m.Size())
	}
}

// Without a bound of its own the owner makes room.
func TestRemoveOldest(t *testing.T) {
	m := New[int, int](0, nil)
	for i := range 3 {
		m.Put(i, 10*i)
	}
	m.Get(0)
	for _, want := range []int{1, 2, 0} {
		if k, v, ok := m.RemoveOldest(); k != want || v != 10*want || !ok {
			t.Errorf("got %d, %d, %v, want %d", k, v, ok, want)
		}
	}
	if _, _, ok := m.RemoveOldest(); ok {
		t.Error("an empty map has an oldest value")
	}
}

func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New[string, int](10, nil)
		m.PutFor("short", 1, time.Minute)
		m.PutFor("renewed", 1, time.Minute)
		m.PutFor("long", 2, time.Hour)
		m.Put("ever", 3)
		time.Sleep(30 * time.Second)
		m.PutFor("renewed", 4, time.Minute)
		time.Sleep(31 * time.Second)
		if m.Has("short") || !m.Has("renewed") {
			t.Error("one that is too old is there, or one that was renewed is not")
		}
		time.Sleep(2 * time.Hour)
		if got := slices.Collect(m.Values()); !slices.Equal(got, []int{3}) || m.Len() != 4 {
			t.Errorf("got %v, of %d", got, m.Len())
		}
		if m.RemoveOld(); m.Len() != 1 || m.Size() != 1 {
			t.Errorf("%d are left", m.Len())
		}
	})
}
