package index

import (
	"bytes"
	"strings"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/storepath"
)

// extraKeys find entries by what is no key of theirs. Most caches are never
// asked for them, so they are made on first use, from the lines that have any.
type extraKeys struct {
	logs         map[[storepath.HashPartLen]byte]Position // by hash part of the derivation
	buildIDs     map[string]Position
	realisations map[string]place // by Realisation.key
}

// place is one realisation of an entry.
type place struct {
	Position
	n int
}

var (
	markLog      = []byte(`,"log":["`)
	markIDs      = []byte(`,"buildIds":["`)
	markRealises = []byte(`,"realises":[{`)
	markDeriver  = []byte(`,"deriver":"`)
)

// findExtras reads all lines. The marks cannot be part of a string in JSON,
// where a quote has a backslash.
func (s *Snapshot) findExtras() *extraKeys {
	x := &extraKeys{logs: map[[storepath.HashPartLen]byte]Position{}, buildIDs: map[string]Position{}, realisations: map[string]place{}}
	for _, p := range s.entries {
		line := s.segments[p.Segment].Line(int(p.Line))
		if bytes.Contains(line, markLog) {
			if _, drv, ok := bytes.Cut(line, markDeriver); ok && len(drv) > storepath.HashPartLen {
				x.logs[[storepath.HashPartLen]byte(drv)] = p
			}
		}
		if !bytes.Contains(line, markIDs) && !bytes.Contains(line, markRealises) {
			continue
		}
		e, ok := s.at(p, true)
		if !ok {
			continue
		}
		for _, id := range e.BuildIDs {
			x.buildIDs[id] = p
		}
		for i, r := range e.Realisations {
			x.realisations[r.Key()] = place{p, i}
		}
	}
	return x
}

// LookupLog returns an entry that has the log of a derivation's build. drv is
// the derivation's base name, with or without ".drv".
func (s *Snapshot) LookupLog(drv string) (format.Entry, bool) {
	path, err := storepath.ParseBase(strings.TrimSuffix(drv, ".drv") + ".drv")
	if err != nil {
		return format.Entry{}, false
	}
	p, ok := s.extraKeys().logs[[storepath.HashPartLen]byte([]byte(path.HashPart))]
	e, ok := s.at(p, ok)
	if !ok || e.Log.Size == 0 || e.Deriver != path.Base() {
		return format.Entry{}, false
	}
	return e, true
}

// Derived returns the entries whose Deriver is drv, a base name: those that a
// log of its build belongs to. It looks at every entry.
func (s *Snapshot) Derived(drv string) []format.Entry {
	if _, err := storepath.ParseBase(drv); err != nil {
		return nil
	}
	mark := []byte(string(markDeriver) + drv + `"`)
	var es []format.Entry
	for _, p := range s.entries {
		if !bytes.Contains(s.segments[p.Segment].Line(int(p.Line)), mark) {
			continue
		}
		if e, ok := s.at(p, true); ok && e.Deriver == drv {
			es = append(es, e)
		}
	}
	return es
}

// LookupBuildID returns an entry that has the debug symbols for a build ID, 40
// hex digits.
func (s *Snapshot) LookupBuildID(id string) (format.Entry, bool) {
	p, ok := s.extraKeys().buildIDs[id]
	return s.at(p, ok)
}

// LookupRealisation returns the realisation with that ID,
// "sha256:<64 hex digits>!<output>", and the path that it is.
func (s *Snapshot) LookupRealisation(id string) (format.Realisation, format.Entry, bool) {
	return s.realisation(format.Realisation{ID: id})
}

// LookupBuildTrace is LookupRealisation by the base name of a resolved
// derivation and the name of an output.
func (s *Snapshot) LookupBuildTrace(drv, output string) (format.Realisation, format.Entry, bool) {
	return s.realisation(format.Realisation{Drv: drv, Output: output})
}

// Realises reports whether the index has a realisation of that name.
func (s *Snapshot) Realises(r format.Realisation) bool {
	_, _, ok := s.realisation(r)
	return ok
}

func (s *Snapshot) realisation(r format.Realisation) (format.Realisation, format.Entry, bool) {
	p, ok := s.extraKeys().realisations[r.Key()]
	e, ok := s.at(p.Position, ok)
	if !ok || p.n >= len(e.Realisations) {
		return format.Realisation{}, format.Entry{}, false
	}
	return e.Realisations[p.n], e, true
}
