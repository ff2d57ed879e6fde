package registry

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ReadBlob reads a whole blob of exactly size bytes, verified against its
// digest. A transfer that breaks is begun again.
func ReadBlob(ctx context.Context, repo Repository, digest v1.Hash, size int64) ([]byte, error) {
	return readAll(ctx, repo, digest, 0, -1, size)
}

// ReadPart reads length bytes of a blob from offset on. Nothing verifies them.
// A transfer that breaks is begun again.
func ReadPart(ctx context.Context, repo Repository, digest v1.Hash, offset, length int64) ([]byte, error) {
	return readAll(ctx, repo, digest, offset, length, length)
}

func readAll(ctx context.Context, repo Repository, digest v1.Hash, offset, length, size int64) ([]byte, error) {
	const tries = 3
	for n := 1; ; n++ {
		body, err := repo.Blob(ctx, digest, offset, length)
		if err != nil {
			return nil, err
		}
		// one byte more shows a blob that is too long
		b, err := io.ReadAll(io.LimitReader(body, size+1))
		body.Close()
		if err == nil && int64(len(b)) != size {
			err = fmt.Errorf("it has %d bytes or more, not %d", len(b), size)
		}
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if n == tries || !mayPass(err) {
			return nil, fmt.Errorf("reading blob %s: %w", digest, err)
		}
	}
}
