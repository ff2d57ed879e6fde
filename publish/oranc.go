package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/nixoci-action/index"
	"github.com/org/nixoci-action/index/migrate"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/ui"
	"github.com/org/nixoci-action/report"
)

// importTick is the time between two lines about an import.
const importTick = 10 * time.Second

// importOranc imports what oranc has put into the cache's repository.
func (p *publisher) importOranc(ctx context.Context) error {
	base, err := p.open(ctx)
	if err != nil {
		return p.explain(err)
	}
	if base.Foreign() {
		return hint.Wrap(errors.New("the cache is nixcache-oci's, too, which a dry run does not take over"), "leave out --dry-run, or publish into it before")
	}
	defer p.stages.Start("import")()
	p.Messages.Printf("looking for what oranc has stored in %s", p.Repo)
	last := time.Now()
	s, im, err := migrate.Oranc(ctx, p.Index, migrate.ImportOptions{
		OnUpstream: p.onUpstream,
		Config:     p.config(nil),
		DryRun:     p.DryRun,
		Progress: func(read, total int) {
			if time.Since(last) >= importTick {
				last = time.Now()
				p.Messages.Printf("read %s of %s", ui.Number(read), ui.Count(total, "path"))
			}
		},
	})
	p.report.imported(im)
	if err != nil {
		if im.Paths > 0 && !p.DryRun {
			p.Messages.Printf("imported until then: %s; run it again, and it goes on from there", ui.Count(im.Paths, "path"))
			err = report.AsPartly(err)
		}
		return p.explain(err)
	}
	leftOut := len(im.Lost) + len(im.Incomplete) + len(im.Unusable)
	if im.Paths+im.Present+leftOut == 0 {
		return hint.Wrap(fmt.Errorf("oranc has stored no paths in %s", p.Repo), "is it the repository that oranc was given?")
	}
	if s == nil {
		s = base
	}
	p.printImported(im, s.Keys().Trusted)
	if leftOut == 0 {
		return nil
	}
	err = hint.Wrap(fmt.Errorf("left out of what oranc has stored: %s whose NAR the registry does not have, %s whose narinfo no Nix could use, %s that need what is neither in the cache nor on an upstream cache",
		ui.Count(len(im.Lost), "path"), ui.Number(len(im.Unusable)), ui.Number(len(im.Incomplete))),
		"--json names them; publish what has them again")
	if im.Paths+im.Present == 0 {
		return err
	}
	return report.AsPartly(err)
}

// onUpstream reports whether one of the upstream caches has a path.
func (p *publisher) onUpstream(ctx context.Context, hashPart string) (bool, error) {
	var errs []error
	for _, u := range p.Upstreams {
		has, err := u.Has(ctx, hashPart)
		if has && err == nil {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, hint.Wrap(errors.Join(errs...), "name with --upstream the caches that have what oranc's paths refer to; with none only complete closures are imported")
}

// printImported prints what was imported, and what clients need to use it.
func (p *publisher) printImported(im migrate.Imported, publicKeys []string) {
	verb := "imported"
	if p.DryRun {
		verb = "to import"
	}
	p.Messages.Printf("%s: %s, NAR size %s, %s compressed; in the cache already: %s", verb, ui.Count(im.Paths, "path"), ui.Bytes(im.NarSize), ui.Bytes(im.FileSize), ui.Number(im.Present))
	if im.Realisations > 0 {
		p.Messages.Printf("%s, too: %s", verb, ui.Count(im.Realisations, "realisation"))
	}
	if im.Other > 0 {
		p.Messages.Printf("not imported: %s that are no store paths, such as build logs", ui.Count(im.Other, "file"))
	}
	if im.Unsigned > 0 {
		p.Messages.Printf("without a signature: %s", ui.Count(im.Unsigned, "path"))
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(im.Keys)) {
		known := slices.ContainsFunc(publicKeys, func(k string) bool { return strings.HasPrefix(k, name+":") })
		p.Messages.Printf("signed by %s: %s", name, ui.Count(im.Keys[name], "path"))
		if !known && !p.DryRun {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		p.Messages.Printf("signatures do not tell the public key: clients need that of %s among their trusted-public-keys, as before. "+
			"Once more with the secret key in --sign-key-file keeps it in the cache, so that proxy prints it", ui.Few(unknown))
	}
}

// noticeOranc says that there are paths of oranc's which nobody has imported.
func (p *publisher) noticeOranc(base *index.Snapshot) {
	if paths, present := base.Oranc(); paths > 0 && present == 0 && !p.ImportOranc {
		p.Messages.Notice(fmt.Sprintf("the repository has %s of oranc's, which are not part of the cache: publish --import-oranc makes them so, without sending them again", ui.Count(paths, "path")))
	}
}
