package ghpackages

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Version is one version of the package.
type Version struct {
	ID int64
	// Digest is the manifest's, "sha256:<hex>".
	Digest string
	// Tags point to it.
	Tags []string
	// Changed is when it was stored, or when GitHub last changed something
	// about it.
	Changed time.Time
}

// version is a Version as the API has it.
type version struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Metadata  *struct {
		Container *struct {
			Tags []string `json:"tags"`
		} `json:"container"`
	} `json:"metadata"`
}

// decode fails if the tags are not told: that is not the same as none.
func (v version) decode() (Version, error) {
	if v.ID <= 0 || v.Name == "" || v.CreatedAt.IsZero() || v.Metadata == nil || v.Metadata.Container == nil || v.Metadata.Container.Tags == nil {
		return Version{}, fmt.Errorf("version %d is not described as documented", v.ID)
	}
	changed := v.CreatedAt
	if v.UpdatedAt.After(changed) {
		changed = v.UpdatedAt
	}
	return Version{ID: v.ID, Digest: v.Name, Tags: v.Metadata.Container.Tags, Changed: changed}, nil
}

// Versions lists all versions. If the package does not exist, or the token may
// not see it, the error wraps ErrNotFound.
func (c *Client) Versions(ctx context.Context) ([]Version, error) {
	path, err := c.versions(ctx)
	if err != nil {
		return nil, c.describe("listing the versions of", err)
	}
	var all []Version
	for page := 1; ; page++ {
		var some []version
		more, err := c.do(ctx, request{http.MethodGet, path + "?per_page=" + strconv.Itoa(perPage) + "&page=" + strconv.Itoa(page)}, &some)
		if err != nil {
			return nil, c.describe("listing the versions of", err)
		}
		for _, v := range some {
			decoded, err := v.decode()
			if err != nil {
				return nil, c.describe("listing the versions of", err)
			}
			all = append(all, decoded)
		}
		if !more {
			return all, nil
		}
		if page == maxPages {
			return nil, c.describe("listing the versions of", fmt.Errorf("there are more than %d pages", maxPages))
		}
	}
}

// Version asks for one version. If it does not exist, or the token may not see
// it, the error wraps ErrNotFound.
func (c *Client) Version(ctx context.Context, id int64) (Version, error) {
	path, err := c.versions(ctx)
	var v version
	if err == nil {
		_, err = c.do(ctx, request{http.MethodGet, path + "/" + strconv.FormatInt(id, 10)}, &v)
	}
	var decoded Version
	if err == nil {
		decoded, err = v.decode()
	}
	if err != nil {
		return Version{}, c.describe("reading a version of", err)
	}
	return decoded, nil
}

// Delete deletes a version with all its tags. What is absent counts as
// deleted. If GitHub refuses, the error wraps a *RefusedError.
func (c *Client) Delete(ctx context.Context, id int64) error {
	path, err := c.versions(ctx)
	if err == nil {
		err = c.deletions.Wait(ctx)
	}
	if err != nil {
		return c.describe("deleting a version of", err)
	}
	_, err = c.do(ctx, request{http.MethodDelete, path + "/" + strconv.FormatInt(id, 10)}, nil)
	if isNotFound(err) { // gone, or hidden from who may not delete it
		switch _, look := c.Version(ctx, id); {
		case isNotFound(look):
			return nil
		case look != nil:
			return look
		}
	}
	return c.describe("deleting a version of", err)
}

// versions is the path of the package's versions.
func (c *Client) versions(ctx context.Context) (string, error) {
	c.mu.Lock()
	scope := c.scope
	c.mu.Unlock()
	if scope == "" {
		var err error
		if scope, err = c.find(ctx); err != nil {
			return "", err
		}
		c.mu.Lock()
		c.scope = scope
		c.mu.Unlock()
	}
	return c.below(scope), nil
}

func (c *Client) below(scope string) string {
	return scope + "/packages/container/" + url.PathEscape(c.name) + "/versions"
}

// account is an owner, or who the token belongs to.
type account struct {
	Login string `json:"login"`
	Type  string `json:"type"`
}

// find finds out where the owner's packages are: organizations and users have
// different ones, and a user's own private packages a third, which a token of
// GitHub Actions must not use.
func (c *Client) find(ctx context.Context) (string, error) {
	user := "/users/" + url.PathEscape(c.owner)
	var owner account
	if _, err := c.do(ctx, request{http.MethodGet, user}, &owner); err != nil {
		return "", err
	}
	if owner.Type == "Organization" {
		return "/orgs/" + url.PathEscape(c.owner), nil
	}
	_, err := c.do(ctx, request{http.MethodGet, c.below(user) + "?per_page=1"}, nil)
	if !isNotFound(err) {
		return user, err
	}
	var self account
	if _, whoami := c.do(ctx, request{http.MethodGet, "/user"}, &self); whoami == nil && strings.EqualFold(self.Login, c.owner) {
		return "/user", nil
	}
	return "", err
}
