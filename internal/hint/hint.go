// Package hint attaches to an error what its reader can do about it. The
// message says what is wrong, the hint says what to try; a command prints both.
package hint

import "errors"

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
