package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/registry"
	"github.com/org/nixoci-action/internal/signing"
	"github.com/org/nixoci-action/proxy/push"
)

const (
	// minToken is the least length of a token, in characters.
	minToken = 16
	// maxTokenFile bounds what is read of a token file, in bytes.
	maxTokenFile = 64 << 10
	// proveTimeout bounds the proof that the cache can be written to.
	proveTimeout = 30 * time.Second
)

// receiver makes what lets clients write; nil if they may not. It finds out
// whether the registry would let us.
func (o *opener) receiver(ctx context.Context, idx *index.Cache, cache string, repo registry.Repository, log *slog.Logger) (*push.Receiver, error) {
	if !o.allowPush {
		return nil, nil
	}
	keys, err := signing.Load(o.keyFiles, o.keyText)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		o.secrets.AddKeys(k.String())
	}
	tokens, err := readTokens(o.tokenFile)
	if err != nil {
		return nil, err
	}
	o.secrets.Add("a push token", tokens...)
	dir := filepath.Join(os.TempDir(), "nixoci-push")
	if o.cacheDir != "" {
		dir = filepath.Join(o.cacheDir, "tmp")
	}
	limited, cancel := registry.Within(ctx, proveTimeout)
	defer cancel()
	if err := idx.Prepare(limited); registry.Denied(err) || registry.Refused(err) || ctx.Err() != nil {
		return nil, err
	} else if err != nil {
		o.msg.Warn(fmt.Errorf("nothing can be pushed until the registry answers: %w", err))
	}
	return push.New(push.Options{
		Cache: idx, Repository: repo, Dir: dir, Tokens: tokens, Keys: keys, TrustedKeys: o.trusted, Secrets: o.secrets,
		RequireSignatures: o.requireSig, Series: o.series, MaxBlobSize: registry.MaxBlobSize(cache), Logger: log,
	}), nil
}

// readTokens reads a file with one token a line. Errors show no part of them.
func readTokens(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	fail := func(err error) ([]string, error) {
		return nil, hint.Wrap(fmt.Errorf("reading the push tokens: %w", err), "make a token with `openssl rand -hex 32`")
	}
	st, err := os.Stat(name)
	if err != nil {
		return fail(err)
	}
	if st.Size() > maxTokenFile {
		return fail(fmt.Errorf("%s is too large", name))
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return fail(err)
	}
	tokens, err := parseTokens(string(b))
	if err != nil {
		return fail(fmt.Errorf("%s: %w", name, err))
	}
	return tokens, nil
}

func parseTokens(text string) ([]string, error) {
	tokens := strings.Fields(text)
	if len(tokens) == 0 {
		return nil, errors.New("it is empty")
	}
	for _, t := range tokens {
		if len(t) < minToken {
			return nil, errors.New("a token has less than 16 characters")
		}
	}
	return tokens, nil
}
