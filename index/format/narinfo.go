package format

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// ParseNarinfo reads a narinfo that somebody else has written. Like Nix it
// passes over fields that it does not know, and takes hashes in any notation
// and fields in any order.
//
// What it says of the compressed NAR is not trusted, except that url is its
// URL: the entry has neither FileHash nor NAR. Only when they are filled in can
// it pass Validate, which checks the rest as well.
func ParseNarinfo(text string) (e Entry, url string, err error) {
	fs, err := bincache.ParseNarinfo(text)
	if err != nil {
		return e, "", err
	}
	e.Compression = bincache.DefaultCompression
	e.Signatures = fs.All("Sig")
	var errs []error
	try := func(key string, set func(value string) error) {
		if err := set(fs.Get(key)); err != nil {
			errs = append(errs, fmt.Errorf("a narinfo's %s: %w", key, err))
		}
	}
	try("StorePath", func(s string) (err error) { e.Path, err = storepath.Parse(s); return err })
	try("NarHash", func(s string) (err error) { e.NarHash, err = bincache.ParseHash(s); return err })
	try("NarSize", func(s string) (err error) { e.NarSize, err = strconv.ParseInt(s, 10, 64); return err })
	if c := fs.Get("Compression"); c != "" {
		e.Compression = c
	}
	e.References = strings.Fields(fs.Get("References"))
	slices.Sort(e.References)
	e.References = slices.Compact(e.References)
	if d := fs.Get("Deriver"); d != "unknown-deriver" && d != "" {
		e.Deriver = path.Base(d)
	}
	e.CA = fs.Get("CA")
	return e, fs.Get("URL"), errors.Join(errs...)
}
