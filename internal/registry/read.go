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
	const tries = 3
	for n := 1; ; n++ {
		b, err := readOnce(ctx, repo, digest, size)
		if err == nil || ctx.Err() != nil || n == tries || !transient(err) {
			return b, err
		}
	}
}

func readOnce(ctx context.Context, repo Repository, digest v1.Hash, size int64) ([]byte, error) {
	body, err := repo.Blob(ctx, digest, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	// one byte more shows a blob that is too long
	b, err := io.ReadAll(io.LimitReader(body, size+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", digest, err)
	}
	if int64(len(b)) != size {
		return nil, fmt.Errorf("reading blob %s: it has %d bytes or more, expected %d", digest, len(b), size)
	}
	return b, nil
}
