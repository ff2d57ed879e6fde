package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// What a registry can make us hold and do.
const (
	maxTags     = 1_000_000
	maxTagPages = 2_000
	maxTagPage  = 64 << 20 // bytes
)

// tagRE is what the specification allows; nothing else can be asked for.
var tagRE = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func (r *remote) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	next := r.endpoint("tags", "list")
	next.RawQuery = "n=1000"
	for page := 1; next != nil; page++ {
		var names []string
		var err error
		names, next, err = r.tagPage(ctx, next)
		if page == 1 && errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err == nil && (page >= maxTagPages || len(tags)+len(names) > maxTags) {
			err = fmt.Errorf("registry %s has more than %d, or %d pages of them", r.repo.RegistryStr(), maxTags, maxTagPages)
		}
		if err != nil {
			return nil, fmt.Errorf("listing tags: %w", err)
		}
		tags = append(tags, names...)
	}
	return tags, nil
}

// tagPage reads one page of the list, and where the next one is.
func (r *remote) tagPage(ctx context.Context, u *url.URL) (tags []string, next *url.URL, err error) {
	err = r.call(ctx, request{method: http.MethodGet, url: u, accept: []int{http.StatusOK}}, func(resp *http.Response) error {
		raw, err := readBounded(resp.Body, maxTagPage)
		if err != nil {
			return err
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return permanentError{fmt.Errorf("decoding the tag list: %w", err)}
		}
		for _, t := range page.Tags {
			if tagRE.MatchString(t) {
				tags = append(tags, t)
			}
		}
		next, err = nextPage(u, resp.Header.Values("Link"))
		return err
	})
	return tags, next, err
}

var (
	linkRE = regexp.MustCompile(`<([^<>]*)>([^<]*)`)
	nextRE = regexp.MustCompile(`(?i);\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next(?:\s[^"]*)?")`)
)

// nextPage follows a Link header with rel="next", on the same host only. It is
// nil on the last page.
func nextPage(from *url.URL, links []string) (*url.URL, error) {
	for _, m := range linkRE.FindAllStringSubmatch(strings.Join(links, ", "), -1) {
		if !nextRE.MatchString(m[2]) {
			continue
		}
		u, err := from.Parse(m[1])
		if err != nil || u.Host != from.Host || u.String() == from.String() {
			return nil, permanentError{fmt.Errorf("the tag list's next page is at %q", m[1])}
		}
		return u, nil
	}
	return nil, nil
}
