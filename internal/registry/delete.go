package registry

import (
	"context"
	"errors"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func (r *remote) DeleteManifest(context.Context, string, v1.Hash) error { return errors.ErrUnsupported }

func (r *remote) Untagged(context.Context, time.Time) ([]v1.Hash, error) { return nil, nil }

func (r *remote) Collect(context.Context, time.Time) (Freed, error) { return Freed{}, nil }

func (l *layout) DeleteManifest(context.Context, string, v1.Hash) error { return errors.ErrUnsupported }

func (l *layout) Untagged(context.Context, time.Time) ([]v1.Hash, error) { return nil, nil }

func (l *layout) Collect(context.Context, time.Time) (Freed, error) {
	return Freed{}, errors.ErrUnsupported
}
