package index

import "time"

// Retention says which publications keep what they published.
//
// Publications of one line replace each other: those with the same Ref (or,
// without one, the same Flake), Systems and Selection. Publications in a row
// that have the same roots count as one, made when the last was.
type Retention struct {
	// Last is how many publications of each line are kept for ever: of a
	// branch whose name matches one of Branches, of a tag (at least one), of
	// what was published outside CI.
	Last int
	// Branches are globs (path.Match) over branch names; nil means all.
	Branches []string
	// Age is how long a publication is kept after that: since it was made, or
	// since newer ones took its place.
	Age time.Duration
	// PullRequests is how long the publications of a pull request, or of a
	// merge queue, are kept after they were made.
	PullRequests time.Duration
}

// Verdict says whether a publication is kept, and why.
type Verdict struct {
	Publication Publication
	Keep        bool
	// Reason is for people: "newest of main", "main, replaced 3 days ago".
	Reason string
	// Until is when it stops to be kept, or stopped; zero means never.
	Until time.Time
}
