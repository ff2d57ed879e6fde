// Package format has what a cache index stores: entries, segments, the root,
// publications, and the manifests that hold them. docs/format.md specifies it.
// The package encodes, decodes and checks. It asks no registry.
package format
