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
	"github.com/org/nixoci-action/internal/cli"
	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/storepath"
	"github.com/org/nixoci-action/internal/ui"
)

// importTick is the time between two lines about an import.
const importTick = 10 * time.Second

// importReport is what was imported from oranc, or in a dry run would be.
type importReport struct {
	total
	// Present is the number of oranc's paths that the cache had already.
	Present    int      `json:"present"`
	Lost       []string `json:"lost,omitempty"`
	Incomplete []string `json:"incomplete,omitempty"`
	// Unusable are the names of narinfos.
	Unusable []string `json:"unusable,omitempty"`
	// Other is the number of files that are not imported: realisations, logs.
	Other int `json:"other"`
	// SignedBy has the number of paths by the name of the key.
	SignedBy map[string]int `json:"signedBy"`
	Unsigned int            `json:"unsigned"`
}

func (r *report) imported(im migrate.Imported) {
	names := func(paths []storepath.Path) (all []string) {
		for _, p := range paths {
			all = append(all, p.String())
		}
		return all
	}
	r.Imported = &importReport{
		total: total{im.Paths, im.NarSize, im.FileSize}, Present: im.Present,
		Lost: names(im.Lost), Incomplete: names(im.Incomplete), Unusable: im.Unusable,
		Other: im.Other, SignedBy: im.Keys, Unsigned: im.Unsigned,
	}
	for _, s := range im.Segments {
		r.Segments = append(r.Segments, s.Tag)
	}
}

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
	p.msg.Printf("looking for what oranc has stored in %s", p.repo)
	last := time.Now()
	s, im, err := migrate.Oranc(ctx, p.cache, migrate.ImportOptions{
		OnUpstream: p.onUpstream,
		Config:     p.config(nil),
		DryRun:     p.cfg.DryRun,
		Progress: func(read, total int) {
			if time.Since(last) >= importTick {
				last = time.Now()
				p.msg.Printf("read %s of %s", ui.Number(read), ui.Count(total, "path"))
			}
		},
	})
	p.report.imported(im)
	if err != nil {
		if im.Paths > 0 && !p.cfg.DryRun {
			p.msg.Printf("imported until then: %s; run it again, and it goes on from there", ui.Count(im.Paths, "path"))
			p.report.partial = true
			err = cli.WithStatus(err, cli.ExitPartly)
		}
		return p.explain(err)
	}
	leftOut := len(im.Lost) + len(im.Incomplete) + len(im.Unusable)
	if im.Paths+im.Present+leftOut == 0 {
		return hint.Wrap(fmt.Errorf("oranc has stored no paths in %s", p.repo), "is it the repository that oranc was given?")
	}
	if s == nil {
		s = base
	}
	p.tellImported(im, s.Config().PublicKeys)
	if leftOut == 0 {
		return nil
	}
	err = hint.Wrap(fmt.Errorf("left out of what oranc has stored: %s whose NAR the registry does not have, %s whose narinfo no Nix could use, %s that need what is neither in the cache nor on an upstream cache",
		ui.Count(len(im.Lost), "path"), ui.Number(len(im.Unusable)), ui.Number(len(im.Incomplete))),
		"--json names them; publish what has them again")
	if im.Paths+im.Present == 0 {
		return err
	}
	p.report.partial = true
	return cli.WithStatus(err, cli.ExitPartly)
}

// onUpstream reports whether one of the upstream caches has a path.
func (p *publisher) onUpstream(ctx context.Context, hashPart string) (bool, error) {
	var errs []error
	for _, u := range p.upstreams {
		has, err := u.Has(ctx, hashPart)
		if has && err == nil {
			return true, nil
		}
		errs = append(errs, err)
	}
	return false, hint.Wrap(errors.Join(errs...), "name with --upstream the caches that have what oranc's paths refer to; with none only complete closures are imported")
}

// tellImported prints what was imported, and what clients need to use it.
func (p *publisher) tellImported(im migrate.Imported, publicKeys []string) {
	verb := "imported"
	if p.cfg.DryRun {
		verb = "to import"
	}
	p.msg.Printf("%s: %s, NAR size %s, %s compressed; in the cache already: %s", verb, ui.Count(im.Paths, "path"), ui.Bytes(im.NarSize), ui.Bytes(im.FileSize), ui.Number(im.Present))
	if im.Other > 0 {
		p.msg.Printf("not imported: %s that are no store paths, such as realisations and build logs", ui.Count(im.Other, "file"))
	}
	if im.Unsigned > 0 {
		p.msg.Printf("without a signature: %s", ui.Count(im.Unsigned, "path"))
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(im.Keys)) {
		known := slices.ContainsFunc(publicKeys, func(k string) bool { return strings.HasPrefix(k, name+":") })
		p.msg.Printf("signed by %s: %s", name, ui.Count(im.Keys[name], "path"))
		if !known && !p.cfg.DryRun {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		p.msg.Printf("signatures do not tell the public key: clients need that of %s among their trusted-public-keys, as before. "+
			"Once more with the secret key in --sign-key-file keeps it in the cache, so that proxy prints it", ui.Few(unknown))
	}
}

// noticeOranc says that there are paths of oranc's which nobody has imported.
func (p *publisher) noticeOranc(base *index.Snapshot) {
	if paths, present := base.Oranc(); paths > 0 && present == 0 && !p.cfg.ImportOranc {
		p.msg.Notice(fmt.Sprintf("the repository has %s of oranc's, which are not part of the cache: publish --import-oranc makes them so, without sending them again", ui.Count(paths, "path")))
	}
}
