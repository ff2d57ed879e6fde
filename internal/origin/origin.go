// Package origin names the place that a flake or a repository comes from. A name
// tells two places apart. It holds no way to get there, and no credentials.
package origin

import (
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// ports are what a URL means that has no port.
var ports = map[string]string{"http": "80", "https": "443", "ssh": "22", "git": "9418"}

// scp is how Git writes a remote on SSH: [USER@]HOST:PATH.
var scp = regexp.MustCompile(`^(?:[^@/:]*@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([^:].*)$`)

// URL names what a URL leads to, or a Git remote: HOST/PATH, as in
// github.com/me/one. A port is in it only if it is not the scheme's own. All
// ways to one repository have one name: git@host:me/one.git, ssh://git@host/me/one
// and https://user:token@host/me/one. Users, queries and fragments are left out. It
// is "" if there is no host, or no path.
func URL(text string) string {
	text = strings.TrimPrefix(strings.TrimSpace(text), "git+")
	if !strings.Contains(text, "://") {
		m := scp.FindStringSubmatch(text)
		if m == nil {
			return ""
		}
		return name(m[1], m[2])
	}
	u, err := url.Parse(text)
	if err != nil || ports[u.Scheme] == "" {
		return ""
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if p := u.Port(); host != "" && p != "" && p != ports[u.Scheme] {
		host += ":" + p
	}
	return name(host, u.Path)
}

func name(host, p string) string {
	host = strings.TrimRight(strings.ToLower(host), ".")
	p = "/" + p
	for last := ""; p != last; { // what is left may end in it again, or in a slash
		last, p = p, path.Clean("/"+strings.TrimSuffix(p, ".git"))
	}
	if host == "" || host == "-" || p == "/" {
		return ""
	}
	return host + clean(p)
}

// clean makes a path absolute, and escapes it.
func clean(p string) string { return (&url.URL{Path: path.Clean("/" + p)}).EscapedPath() }

// Folder names a folder of a machine: HOST:/PATH. The path must be absolute.
// It is "" if the host is not known.
func Folder(host, p string) string {
	if host == "" || !path.IsAbs(p) {
		return ""
	}
	return strings.ToLower(host) + ":" + clean(p)
}

// runs are what follows the repository in the URL of a run's page: on GitHub,
// Gitea and Forgejo, and on GitLab.
var runs = regexp.MustCompile(`^(https?://.+)/(?:actions/runs|-/jobs)/[0-9]+$`)

// Run names the repository that a page of a CI run belongs to. It is "" if the
// page is not like one of GitHub, Gitea, Forgejo or GitLab.
func Run(page string) string {
	m := runs.FindStringSubmatch(page)
	if m == nil {
		return ""
	}
	return URL(m[1])
}

// Parts of a repository that a flake reference may choose.
var parts = []string{"dir", "ref", "rev"}

// Within adds to a name which part of the place a flake reference chooses.
func Within(name string, query url.Values) string {
	chosen := url.Values{}
	for _, k := range parts {
		if v := query.Get(k); v != "" {
			chosen.Set(k, v)
		}
	}
	if name == "" || len(chosen) == 0 {
		return name
	}
	return name + "?" + chosen.Encode()
}

// Shown is a flake reference for people: a folder is named in full, because "."
// says nothing to who reads it later. What is no folder stays as it is.
func Shown(ref string) string {
	if ref != "." && ref != ".." && !strings.HasPrefix(ref, "./") && !strings.HasPrefix(ref, "../") || strings.ContainsAny(ref, "?#") {
		return ref
	}
	if abs, err := filepath.Abs(ref); err == nil {
		return abs
	}
	return ref
}
