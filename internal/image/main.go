// Command image makes the container image of a release from its programs, and
// pushes it. The same programs give the same image, to the last byte.
//
//	image build -bin DIR -version v1.2.3 -revision COMMIT -to LAYOUT
//	image push -from LAYOUT REFERENCE...
//
// scripts/release and the Makefile run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/nixoci-action/internal/cli"
)

// pushLimit is how long a push may take, with all of its repetitions.
const pushLimit = 15 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	digest, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

// run returns the digest of the image that was built or pushed.
func run(ctx context.Context, args []string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("neither build nor push")
	}
	f := flag.NewFlagSet("image "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "build":
		bin := f.String("bin", "", "folder with a folder of programs for each platform, as linux-amd64")
		version := f.String("version", "", "of the release, as v1.2.3")
		revision := f.String("revision", "", "commit that the programs are from")
		to := f.String("to", "", "folder for the image, in the OCI image layout")
		if err := f.Parse(args[1:]); err != nil {
			return "", err
		}
		index, err := imageIndex(*bin, *version, *revision)
		if err != nil {
			return "", err
		}
		return write(*to, index)
	case "push":
		from := f.String("from", "", "folder with the image")
		if err := f.Parse(args[1:]); err != nil {
			return "", err
		}
		if f.NArg() == 0 {
			return "", errors.New("no reference to push to")
		}
		ctx, cancel := context.WithTimeout(ctx, pushLimit)
		defer cancel()
		return push(ctx, *from, f.Args())
	}
	return "", fmt.Errorf("neither build nor push, but %q", args[0])
}

// write writes the image to dir, where nothing may be but an older image.
func write(dir string, index v1.ImageIndex) (string, error) {
	if _, err := layout.FromPath(dir); err == nil {
		if err := os.RemoveAll(dir); err != nil { //nolint:gosec // it is the folder that the caller names, and an image
			return "", err
		}
	} else if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%q is no folder for an image", dir)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", fmt.Errorf("writing the image: %w", err)
	}
	if err := path.AppendIndex(index); err != nil {
		return "", fmt.Errorf("writing the image: %w", err)
	}
	digest, err := index.Digest()
	return digest.String(), err
}

func push(ctx context.Context, dir string, references []string) (string, error) {
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", fmt.Errorf("reading the image: %w", err)
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return "", fmt.Errorf("reading the image: %w", err)
	}
	if len(manifest.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d images, not one", dir, len(manifest.Manifests))
	}
	digest := manifest.Manifests[0].Digest
	index, err := all.ImageIndex(digest)
	if err != nil {
		return "", fmt.Errorf("reading the image: %w", err)
	}
	for _, text := range references {
		ref, err := name.NewTag(text, name.StrictValidation)
		if err != nil {
			return "", fmt.Errorf("%q is no reference with a tag: %w", text, err)
		}
		if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(cli.Keychain(os.Getenv))); err != nil {
			return "", fmt.Errorf("pushing to %s: %w", ref, err)
		}
	}
	return digest.String(), nil
}
