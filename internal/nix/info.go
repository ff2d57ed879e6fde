package nix

import "time"

// PathInfo is what a Nix store records about one valid store path. Whatever
// shape a Nix version prints it in, the fields here are normalised.
type PathInfo struct {
	// Path is the absolute store path.
	Path string
	// NarHash is "sha256:" and 52 characters of Nix base32.
	NarHash string
	// NarSize is the size of the uncompressed NAR in bytes.
	NarSize int64
	// References are absolute store paths, sorted; the path itself is among
	// them if it refers to itself.
	References []string
	// Deriver is the absolute path of the .drv, or "".
	Deriver string
	// Signatures are "name:base64", as recorded.
	Signatures []string
	// CA is the content address in its string form ("fixed:r:sha256:…",
	// "text:sha256:…"), or "".
	CA string
	// Ultimate tells that the path was built on this machine.
	Ultimate bool
	// Registered is when the path became valid here, in whole seconds.
	Registered time.Time
}
