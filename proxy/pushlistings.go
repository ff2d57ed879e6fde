package proxy

import (
	"slices"
	"sync"
	"time"
)

// listingsMemory bounds the listings that are held, in bytes, as they are
// stored.
const listingsMemory = 16 << 20

// listing is what a client says is in a path that is not here yet. Nobody
// checks it against the NAR.
type listing struct {
	doc      []byte // as format.EncodeDocument makes it
	buildIDs []string
	end      int64 // least size of the NAR
	since    time.Time
}

// listings are held until their paths come. It is no loss that somebody built
// on if one is dropped. The zero value is empty.
type listings struct {
	mu   sync.Mutex
	size int
	of   map[string]*listing // by hash part
}

func (x *listings) hold(hashPart string, l *listing) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of == nil {
		x.of = map[string]*listing{}
	}
	x.remove(hashPart)
	if l.memory() > listingsMemory {
		return
	}
	for x.size+l.memory() > listingsMemory {
		var oldest string
		for k, o := range x.of {
			if oldest == "" || o.since.Before(x.of[oldest].since) {
				oldest = k
			}
		}
		x.remove(oldest)
	}
	x.of[hashPart] = l
	x.size += l.memory()
}

// memory is about what a listing takes.
func (l *listing) memory() int { return len(l.doc) + 56*len(l.buildIDs) + 200 }

func (x *listings) remove(hashPart string) {
	if l := x.of[hashPart]; l != nil {
		x.size -= l.memory()
		delete(x.of, hashPart)
	}
}

// get returns the listing of a path, or nil.
func (x *listings) get(hashPart string) *listing {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.of[hashPart]
}

// drop forgets a listing, unless there is another one since.
func (x *listings) drop(hashPart string, l *listing) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l != nil && x.of[hashPart] == l {
		x.remove(hashPart)
	}
}

// names reports whether one of them has the debug symbols for a build ID.
func (x *listings) names(id string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range x.of {
		if slices.Contains(l.buildIDs, id) {
			return true
		}
	}
	return false
}

// expire drops those whose path has not come.
func (x *listings) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, l := range x.of {
		if time.Since(l.since) > pendingFor {
			x.remove(k)
		}
	}
}
