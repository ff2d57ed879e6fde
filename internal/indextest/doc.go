// Package indextest is for tests of the cache index: a registry in memory,
// repositories that fail or watch, entries, publications, and caches of
// nixcache-oci.
package indextest
