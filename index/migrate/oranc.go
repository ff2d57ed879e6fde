package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/nixoci-action/bincache"
	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/oranc"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/storepath"
)

// orancFiles are the keys in a repository that oranc has written, each with its
// tags, that of the newer encoding first.
type orancFiles map[string][]string

func newOrancFiles(tags []string) orancFiles {
	files := orancFiles{}
	for _, tag := range tags {
		if key, ok := oranc.Key(tag); ok {
			files[key] = append(files[key], tag)
			if len(files[key]) > 1 && tag == oranc.Tag(key) {
				slices.Reverse(files[key])
			}
		}
	}
	return files
}

// unusableError tells why a file of oranc's is left out.
type unusableError struct {
	lost storepath.Path // if it is its NAR that is missing
	err  error
}

func (e *unusableError) Error() string { return e.err.Error() }
func (e *unusableError) Unwrap() error { return e.err }

// entry makes an entry of a narinfo and its NAR's blob.
func (im *importer) entry(ctx context.Context, key string) (format.Entry, error) {
	text, err := im.text(ctx, key)
	if err != nil {
		return format.Entry{}, err
	}
	e, url, err := format.ParseNarinfo(text)
	if err == nil && (narinfoKey(e.Path.HashPart) != key || e.Path.Dir != im.dir) {
		err = fmt.Errorf("it is for %s", e.Path)
	}
	if err != nil {
		return format.Entry{}, &unusableError{err: err}
	}
	nar, err := im.file(ctx, url)
	if err == nil {
		err = im.checkBlob(ctx, nar)
	}
	if unusable := (*unusableError)(nil); errors.As(err, &unusable) {
		return format.Entry{}, &unusableError{lost: e.Path, err: fmt.Errorf("its NAR: %w", unusable.err)}
	}
	if err != nil {
		return format.Entry{}, err
	}
	// Two paths with the same contents share a NAR's key, and who came last may
	// have compressed it in another way. So its blob tells the file hash.
	e.NAR = format.Location{Blob: nar.Digest, BlobSize: nar.Size, Size: nar.Size}
	if e.FileHash, err = bincache.ParseHash(nar.Digest.String()); err == nil {
		err = e.Validate()
	}
	if err != nil {
		return format.Entry{}, &unusableError{err: err}
	}
	return e, nil
}

func narinfoKey(hashPart string) string {
	return bincache.File{Kind: bincache.Narinfo, Name: hashPart}.Path()
}

// text reads a small file.
func (im *importer) text(ctx context.Context, key string) (string, error) {
	d, err := im.file(ctx, key)
	if err != nil {
		return "", err
	}
	if d.Size > bincache.MaxNarinfo {
		return "", &unusableError{err: fmt.Errorf("it has %d bytes", d.Size)}
	}
	b, err := registry.ReadBlob(ctx, im.cache.Repository(), d.Digest, d.Size)
	if errors.Is(err, registry.ErrNotFound) {
		return "", &unusableError{err: errors.New("the registry does not have its blob")}
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", key, err)
	}
	return string(b), nil
}

// file finds the blob of a file, as oranc does: by its newer tag, then by its
// older one.
func (im *importer) file(ctx context.Context, key string) (v1.Descriptor, error) {
	for _, tag := range im.files[key] {
		m, err := im.cache.Repository().Manifest(ctx, tag)
		if errors.Is(err, registry.ErrNotFound) {
			continue // deleted since the list was made
		}
		if err != nil {
			return v1.Descriptor{}, err
		}
		d, err := oranc.File(m.Raw, key)
		if err != nil {
			return d, &unusableError{err: fmt.Errorf("the manifest of tag %s: %w", tag, err)}
		}
		return d, nil
	}
	return v1.Descriptor{}, &unusableError{err: fmt.Errorf("no tag for the key %q", key)}
}

// checkBlob makes sure that a blob is there.
func (im *importer) checkBlob(ctx context.Context, d v1.Descriptor) error {
	size, err := im.cache.Repository().BlobSize(ctx, d.Digest)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return &unusableError{err: errors.New("the registry does not have its blob")}
	case err == nil && size != d.Size:
		return &unusableError{err: fmt.Errorf("it has %d bytes, and its manifest says %d", size, d.Size)}
	}
	return err
}
