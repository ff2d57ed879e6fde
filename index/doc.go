// Package index owns the cache index: which store paths a cache holds and
// where their NARs are. It reads the index of a repository, keeps a copy on
// disk, and adds to it safely beside any number of other writers.
//
// It follows docs/format.md, which specifies every object it reads and writes.
// It knows neither flakes nor how NARs are made.
package index
