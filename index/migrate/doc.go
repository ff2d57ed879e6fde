// Package migrate imports into a cache what oranc has stored in the same
// repository. A cache of nixcache-oci is taken over by package index itself:
// see Cache.Adopt there.
package migrate
