package secret

import "io"

// Guard passes on what is written to it, unless there is a secret in it: then
// Write fails with a *FoundError, also where the secret comes in pieces. What
// has been passed on until then is never a whole secret: the guard holds back
// as many bytes as might be the beginning of one. It is not safe for concurrent
// use.
type Guard struct {
	w    io.Writer
	f    *finder
	keep int    // bytes to hold back
	held []byte // the last ones, at most keep
	seam []byte // memory for what is looked at where two pieces meet
}

// Guard returns a guard before w for the secrets that are in s by now. At the
// end Flush must be called.
func (s *Set) Guard(w io.Writer) *Guard {
	g := &Guard{w: w, f: s.search()}
	if g.f != nil {
		g.keep = g.f.longest - 1
	}
	return g
}

// Write passes on all but the last bytes. Errors of the writer below are passed
// on, too.
func (g *Guard) Write(p []byte) (int, error) {
	if g.f == nil {
		return g.w.Write(p)
	}
	k := min(len(p), g.keep)
	g.seam = append(append(g.seam[:0], g.held...), p[:k]...)
	found := g.f.find(g.seam)
	if found == nil && len(p) > k {
		found = g.f.find(p)
	}
	if found != nil {
		return 0, &FoundError{found.kind}
	}
	if len(p) <= g.keep {
		pass := max(0, len(g.seam)-g.keep)
		if err := g.pass(g.seam[:pass]); err != nil {
			return 0, err
		}
		g.held = append(g.held[:0], g.seam[pass:]...)
		return len(p), nil
	}
	if err := g.pass(g.held); err != nil {
		return 0, err
	}
	pass := len(p) - g.keep
	if err := g.pass(p[:pass]); err != nil {
		return 0, err
	}
	g.held = append(g.held[:0], p[pass:]...)
	return len(p), nil
}

// Flush passes on what is held back, when there is no more to come.
func (g *Guard) Flush() error {
	err := g.pass(g.held)
	g.held = g.held[:0]
	return err
}

func (g *Guard) pass(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := g.w.Write(b)
	return err
}
