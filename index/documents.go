package index

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/nixoci-action/index/format"
)

// Documents are the documents of an entry, as they are to be served, not
// compressed. Empty ones are none.
type Documents struct {
	// Listing is the NAR's listing, in Nix's JSON.
	Listing []byte
	// Log is the log of the build.
	Log []byte
}

// documents are what a Writer has still to store.
type documents struct {
	of      map[string]*encoded // by hash part of the entry
	size    int                 // bytes
	storing sync.Mutex
}

// encoded are compressed Documents.
type encoded struct{ listing, log []byte }

// AddWith is Add with documents, which share a blob with those of other
// entries. That a document is too large, or cannot be stored, is logged, and
// does not keep the entry from being added.
func (w *Writer) AddWith(ctx context.Context, e format.Entry, d Documents) error {
	if err := e.Validate(); err != nil {
		return err
	}
	enc := &encoded{}
	for _, x := range []struct {
		what string
		doc  []byte
		to   *[]byte
	}{{"listing", d.Listing, &enc.listing}, {"log", d.Log, &enc.log}} {
		if len(x.doc) == 0 {
			continue
		}
		b, err := format.EncodeDocument(x.doc)
		if err != nil {
			w.cache.opts.Logger.Warn("a "+x.what+" is left out", "path", e.Path.String(), "error", err)
			continue
		}
		*x.to = b
	}
	return w.add(ctx, e, enc)
}

func (d *documents) put(hashPart string, enc *encoded) {
	if enc == nil || len(enc.listing)+len(enc.log) == 0 {
		return
	}
	if d.of == nil {
		d.of = map[string]*encoded{}
	}
	d.drop(hashPart)
	d.of[hashPart] = enc
	d.size += len(enc.listing) + len(enc.log)
}

func (d *documents) drop(hashPart string) {
	if enc := d.of[hashPart]; enc != nil {
		d.size -= len(enc.listing) + len(enc.log)
		delete(d.of, hashPart)
	}
}

// storeJobs is how many blobs with documents are stored at once.
const storeJobs = 4

// store puts the documents into the registry, and where they are into the
// pending entries. Its only error is that of a context that has ended;
// otherwise documents that cannot be stored are given up.
func (w *Writer) store(ctx context.Context) error {
	w.documents.storing.Lock()
	defer w.documents.storing.Unlock()
	w.mu.Lock()
	todo := maps.Clone(w.documents.of)
	w.mu.Unlock()
	stored := map[string]*format.Extras{}
	for k := range todo {
		stored[k] = &format.Extras{}
	}
	packs := packDocuments(todo)
	descs := make([]v1.Descriptor, len(packs))
	errs := make([]error, len(packs))
	var g errgroup.Group
	g.SetLimit(storeJobs)
	for i, pack := range packs {
		g.Go(func() error {
			descs[i], errs[i] = w.cache.repo.PutBlob(ctx, pack.blob)
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, pack := range packs {
		if err := errs[i]; err != nil {
			w.cache.opts.Logger.Warn("listings and logs were not stored; their paths are published without", "documents", len(pack.parts), "error", err)
			continue
		}
		desc := descs[i]
		for _, part := range pack.parts {
			l := format.Location{Blob: desc.Digest, BlobSize: desc.Size, Offset: part.offset, Size: part.size}
			if part.log {
				stored[part.hashPart].Log = l
			} else {
				stored[part.hashPart].Listing = l
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, x := range stored {
		if w.documents.of[k] != todo[k] {
			continue // there is a newer one
		}
		w.documents.drop(k)
		e := w.pending[k] // the entry waits for this
		if x.Listing.Size > 0 {
			e.Listing = x.Listing
		}
		if x.Log.Size > 0 {
			e.Log = x.Log
		}
		w.pending[k] = e
	}
	return nil
}

// documentPack is a blob with documents.
type documentPack struct {
	blob  []byte
	parts []documentPart
}

type documentPart struct {
	hashPart     string // of the entry
	log          bool   // or else the listing
	offset, size int64
}

// packDocuments distributes documents over blobs of about extrasSize. The same
// document is in a blob once, as the log of a build with many outputs.
func packDocuments(docs map[string]*encoded) []documentPack {
	var packs []documentPack
	var current documentPack
	seen := map[[sha256.Size]byte]int64{}
	add := func(hashPart string, log bool, doc []byte) {
		if len(doc) == 0 {
			return
		}
		if len(current.blob) > 0 && len(current.blob)+len(doc) > format.ExtrasSize {
			packs = append(packs, current)
			current, seen = documentPack{}, map[[sha256.Size]byte]int64{}
		}
		sum := sha256.Sum256(doc)
		offset, ok := seen[sum]
		if !ok {
			offset = int64(len(current.blob))
			seen[sum] = offset
			current.blob = append(current.blob, doc...)
		}
		current.parts = append(current.parts, documentPart{hashPart, log, offset, int64(len(doc))})
	}
	// in an order, so that the same documents make the same blob
	for _, k := range slices.Sorted(maps.Keys(docs)) {
		add(k, false, docs[k].listing)
		add(k, true, docs[k].log)
	}
	if len(current.blob) > 0 {
		packs = append(packs, current)
	}
	return packs
}
