// Package index owns the cache index: which store paths a cache holds, and
// where their NARs are. It reads the index of a repository, and keeps a copy on
// disk. It adds to the index safely, beside any number of other writers.
//
// Package format says what is stored. Package collect removes what nobody wants
// any more. Package migrate imports what oranc has stored. A cache of
// nixcache-oci is taken over here: its index is in the root, so no root can be
// written before that is done. Every later root has what the readers of
// nixcache-oci want.
//
// The package knows neither flakes nor how NARs are made.
package index
