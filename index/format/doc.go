// Package format is what a cache index stores, as docs/format.md specifies it:
// entries, segments, the root, publications, and the manifests that hold them.
// It encodes, decodes and checks, and asks no registry.
package format
