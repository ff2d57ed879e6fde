package format

import (
	"slices"
	"strconv"
	"strings"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/internal/storepath"
)

// ParseNarinfo makes an entry of a narinfo that somebody else has written, as
// bincache.ParseNarinfo reads it.
//
// What it says of the compressed NAR is not trusted, except that url is its
// URL: the entry has neither FileHash nor NAR. When they are filled in it
// passes Validate, if the cache can store the compression.
func ParseNarinfo(text string) (e Entry, url string, err error) {
	fs, err := bincache.ParseNarinfo(text)
	if err != nil {
		return e, "", err
	}
	if e.Path, err = storepath.Parse(fs.Get("StorePath")); err != nil {
		return e, "", err
	}
	if e.NarSize, err = strconv.ParseInt(fs.Get("NarSize"), 10, 64); err != nil {
		return e, "", err
	}
	e.NarHash, e.Signatures = fs.Get("NarHash"), fs.All("Sig")
	e.Deriver, e.CA = fs.Get("Deriver"), fs.Get("CA")
	if e.Compression = fs.Get("Compression"); e.Compression == "" {
		e.Compression = bincache.DefaultCompression
	}
	e.References = strings.Fields(fs.Get("References"))
	slices.Sort(e.References)
	e.References = slices.Compact(e.References)
	return e, fs.Get("URL"), nil
}
