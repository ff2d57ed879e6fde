package push

import (
	"slices"

	"github.com/org/nixoci-action/internal/lru"
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
}

// listings are held until their paths come. It is no loss that somebody built
// on if one is dropped.
type listings struct {
	*lru.Map[string, *listing] // by hash part
}

func newListings() listings {
	return listings{lru.New[string](listingsMemory, (*listing).memory)}
}

// memory is about what a listing takes.
func (l *listing) memory() int64 { return int64(len(l.doc) + 56*len(l.buildIDs) + 200) }

func (x listings) hold(hashPart string, l *listing) { x.PutFor(hashPart, l, pendingFor) }

// get returns the listing of a path, or nil.
func (x listings) get(hashPart string) *listing {
	l, _ := x.Get(hashPart)
	return l
}

// drop forgets a listing, unless there is another one since.
func (x listings) drop(hashPart string, l *listing) {
	if l != nil && x.get(hashPart) == l {
		x.Remove(hashPart)
	}
}

// names reports whether one of them has the debug symbols for a build ID.
func (x listings) names(id string) bool {
	for l := range x.Values() {
		if slices.Contains(l.buildIDs, id) {
			return true
		}
	}
	return false
}
