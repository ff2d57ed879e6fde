package ghpackages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/org/nixoci-action/internal/hint"
	"github.com/org/nixoci-action/internal/retry"
)

// ErrNotFound is wrapped by errors about what does not exist, or what the
// token may not see: GitHub does not say which.
var ErrNotFound = errors.New("not found")

// RefusedError is an answer that would be given again.
type RefusedError struct {
	// All says that it holds for every version of the package.
	All bool
	// Status is the answer's, Reason what GitHub says, Remedy what the user
	// can do; "" if nothing is known.
	Status         int
	Reason, Remedy string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("GitHub answers %d: %s", e.Status, e.Reason)
}

// Is makes a 404 ErrNotFound.
func (e *RefusedError) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// unwellError is an answer that may pass.
type unwellError struct {
	status int
	reason string
}

func (e *unwellError) Error() string { return fmt.Sprintf("GitHub answers %d: %s", e.status, e.reason) }

// brokenError is a request without an answer.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// limitedError tells to come back later.
type limitedError struct {
	unwellError
	wait time.Duration // 0 if it is not said
}

// transient tells failures that may pass.
func transient(err error) bool {
	var broken *brokenError
	if errors.As(err, &broken) {
		return errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
	}
	return errors.As(err, new(*unwellError))
}

const (
	adminRemedy = "the token needs the admin role on the package: with GITHUB_TOKEN, add the repository with the role Admin under the package's settings, \"Manage Actions access\", and give the job `permissions: packages: write`; " +
		"otherwise use a classic personal access token with the scopes read:packages and delete:packages, of an account that is an admin of the package"
	tokenRemedy     = "the token is missing, wrong or expired: give GITHUB_TOKEN to the step, or log in to ghcr.io with a classic personal access token that has the scopes read:packages and delete:packages"
	downloadsRemedy = "GitHub keeps public versions with more than 5,000 downloads; ask GitHub's support to delete it, or leave it there"
	lastRemedy      = "GitHub keeps the last tagged version of a package; delete the whole package if it is not needed any more"
)

// answerError makes an error of an answer that is no success.
func answerError(resp *http.Response, body []byte) error {
	reason := words(resp.StatusCode, body)
	if limited, wait := rateLimit(resp, reason); limited {
		return &limitedError{unwellError{resp.StatusCode, reason}, wait}
	}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout {
		return &unwellError{resp.StatusCode, reason}
	}
	e := &RefusedError{Status: resp.StatusCode, Reason: reason}
	switch {
	case e.Status == http.StatusUnauthorized:
		e.All, e.Remedy = true, tokenRemedy
	case e.Status == http.StatusForbidden, e.Status == http.StatusNotFound:
		e.All, e.Remedy = true, adminRemedy
	case e.Status < 400, e.Status == http.StatusMethodNotAllowed, e.Status == http.StatusGone:
		e.All = true
	case strings.Contains(reason, "downloads"):
		e.Remedy = downloadsRemedy
	case strings.Contains(reason, "last"):
		e.Remedy = lastRemedy
	}
	return e
}

// maxWords bounds what an answer adds to a message, in bytes.
const maxWords = 512

func words(status int, body []byte) string {
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		return http.StatusText(status)
	}
	if len(answer.Message) > maxWords {
		answer.Message = answer.Message[:maxWords] + "…"
	}
	return strings.ToValidUTF8(answer.Message, "")
}

// rateLimit tells answers to too many requests from those about permissions,
// which may have the same status, and for how long to wait. 0 means that it is
// not said.
func rateLimit(resp *http.Response, reason string) (bool, time.Duration) {
	if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusTooManyRequests {
		return false, 0
	}
	if d, ok := retry.After(resp.Header.Get("Retry-After"), time.Now()); ok {
		return true, bounded(d)
	}
	if resp.Header.Get("X-Ratelimit-Remaining") == "0" {
		reset, err := strconv.ParseInt(resp.Header.Get("X-Ratelimit-Reset"), 10, 64)
		if err != nil {
			return true, 0
		}
		return true, bounded(time.Until(time.Unix(reset+1, 0)))
	}
	return resp.StatusCode == http.StatusTooManyRequests || strings.Contains(strings.ToLower(reason), "rate limit"), 0
}

// bounded is between a second, so that no server makes us spin, and a day.
func bounded(d time.Duration) time.Duration { return max(time.Second, min(d, 24*time.Hour)) }

// maxWaited bounds the time spent waiting for rate limits, in all; unsaidWait
// is what GitHub asks for if it names no time, and longer each time.
const (
	maxWaited  = 15 * time.Minute
	unsaidWait = time.Minute
)

// pause waits as long as GitHub says, unless that is too long in all.
func (c *Client) pause(ctx context.Context, e *limitedError) error {
	wait := e.wait
	c.mu.Lock()
	if wait == 0 {
		wait = unsaidWait + c.waited
	}
	tooLong := c.waited+wait > maxWaited
	if !tooLong {
		c.waited += wait
	}
	c.mu.Unlock()
	if tooLong {
		return hint.Wrap(fmt.Errorf("%w; it is over in %s, which is too long to wait for", e, wait),
			"GitHub limits the requests of an hour; what is left is deleted by the next run")
	}
	c.opts.Logger.Warn("GitHub limits requests, waiting", "pause", wait, "error", e)
	return c.sleep(ctx, wait)
}

// describe says what failed.
func (c *Client) describe(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s package %s of %s: %w", what, c.name, c.owner, err)
	var unwell *unwellError
	if errors.As(err, &unwell) && unwell.status >= 500 {
		return hint.Wrap(err, "try again later; with very many versions GitHub may fail to list a package at all")
	}
	return err
}
