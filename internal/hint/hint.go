// Package hint attaches to an error what its reader can do about it. The
// message says what is wrong, the hint says what to try; a command prints both.
package hint

import (
	"errors"
	"slices"
	"strings"
)

type hinted struct {
	error
	text string
}

func (h *hinted) Unwrap() error { return h.error }

// Wrap attaches text to err. The error's message stays as it is. A nil err
// stays nil, and an empty text adds nothing.
func Wrap(err error, text string) error {
	if err == nil || text == "" {
		return err
	}
	return &hinted{err, text}
}

// Of returns the outermost hint in err's tree, or "".
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.text
	}
	return ""
}

// All returns the hints of an error and of each part of a joined one, without
// repetition.
func All(err error) []string {
	var all []string
	for _, e := range append([]error{err}, Parts(err)...) {
		if h := Of(e); h != "" && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

// Parts takes a joined error apart, through wrappers that leave its message as it
// is. Any other error is its own only part.
func Parts(err error) []error {
	for e := err; e != nil && e.Error() == err.Error(); e = errors.Unwrap(e) {
		if j, ok := e.(interface{ Unwrap() []error }); ok && strings.Contains(e.Error(), "\n") {
			return j.Unwrap()
		}
	}
	return []error{err}
}
