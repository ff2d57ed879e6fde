package origin

import (
	"path"
	"strings"
)

// RefKind is what a Git reference stands for on a forge.
type RefKind int

// All kinds of references.
const (
	OtherRef RefKind = iota
	Branch
	Tag
	PullRequest  // of GitHub, Gitea and Forgejo
	MergeRequest // of GitLab
	MergeQueue   // of GitHub
)

// Ref is a Git reference, read as forges name them.
type Ref struct {
	Kind RefKind
	// Name is that of the branch or tag, the number of the request, the branch
	// that a merge queue leads to; for OtherRef it is the whole reference.
	Name string
}

// ParseRef reads a reference in full. GitHub's pull requests are
// refs/pull/NUMBER/merge, Gitea's and Forgejo's end in /head, GitLab's merge
// requests are refs/merge-requests/NUMBER/head. The branch of a merge queue is
// refs/heads/gh-readonly-queue/BRANCH/pr-….
func ParseRef(ref string) Ref {
	for _, x := range []struct {
		prefix string
		kind   RefKind
	}{
		{"refs/merge-requests/", MergeRequest}, {"refs/pull/", PullRequest}, {"refs/heads/gh-readonly-queue/", MergeQueue},
		{"refs/heads/", Branch}, {"refs/tags/", Tag},
	} {
		rest, ok := strings.CutPrefix(ref, x.prefix)
		if !ok {
			continue
		}
		switch x.kind {
		case PullRequest, MergeRequest:
			rest, _, _ = strings.Cut(rest, "/")
		case MergeQueue:
			rest = path.Dir(rest)
		}
		return Ref{x.kind, rest}
	}
	return Ref{Name: ref}
}

// String is the reference for people.
func (r Ref) String() string {
	switch r.Kind {
	case Tag:
		return "tag " + r.Name
	case PullRequest:
		return "pull request " + r.Name
	case MergeRequest:
		return "merge request " + r.Name
	case MergeQueue:
		return "merge queue of " + r.Name
	}
	return r.Name
}
