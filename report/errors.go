package report

import (
	"errors"
	"strings"
)

// The classes of errors that a run ends with. None changes the message, or the
// errors and hints that are found in err. A nil err stays nil.

type (
	partlyError  struct{ error }
	misusedError struct{ error }
	listedError  struct{ error }
)

func (e *partlyError) Unwrap() error  { return e.error }
func (e *misusedError) Unwrap() error { return e.error }
func (e *listedError) Unwrap() error  { return e.error }

// AsPartly marks an error in spite of which some of the work is done and
// acknowledged.
func AsPartly(err error) error {
	if err == nil {
		return nil
	}
	return &partlyError{err}
}

// IsPartly reports whether an error, or a part of it, is marked by AsPartly.
func IsPartly(err error) bool { return errors.As(err, new(*partlyError)) }

// AsMisuse marks an error of who has started the run: it was asked for what
// cannot be.
func AsMisuse(err error) error {
	if err == nil {
		return nil
	}
	return &misusedError{err}
}

// IsMisuse reports whether an error, or a part of it, is marked by AsMisuse.
func IsMisuse(err error) bool { return errors.As(err, new(*misusedError)) }

// asListed marks an error of what the report's lists name one by one.
func asListed(err error) error {
	if err == nil {
		return nil
	}
	return &listedError{err}
}

// unlisted is what an error says besides what is listed; a line for each part.
func unlisted(err error) string {
	var lines []string
	var walk func(error)
	walk = func(err error) {
		text := err.Error()
		for e := err; e != nil && e.Error() == text; e = errors.Unwrap(e) {
			if _, ok := e.(*listedError); ok { //nolint:errorlint // each wrapping is looked at by itself
				return
			}
			if j, ok := e.(interface{ Unwrap() []error }); ok && text == errors.Join(j.Unwrap()...).Error() {
				for _, part := range j.Unwrap() {
					walk(part)
				}
				return
			}
		}
		lines = append(lines, text)
	}
	if err != nil {
		walk(err)
	}
	return strings.Join(lines, "\n")
}
