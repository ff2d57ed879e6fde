// Package index owns the cache index: which store paths a cache holds and
// where their NARs are. It reads the index of a repository, keeps a copy on
// disk, and adds to it safely beside any number of other writers.
//
// Package format says what is stored, collect removes what nobody wants any
// more, migrate imports what other programs have stored. What nixcache-oci has
// written into the root is taken over here, because no root can be written
// over it before, and neither can one without what its readers want.
//
// It knows neither flakes nor how NARs are made.
package index
