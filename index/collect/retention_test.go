package collect

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

func with(p format.Publication, change func(*format.Publication)) format.Publication {
	change(&p)
	return p
}

// part makes p one of a series: a part if it is for one system.
func part(p format.Publication, systems ...string) format.Publication {
	p.Series, p.Systems, p.Partial = "s", systems, len(systems) == 1
	return p
}

// of makes p one of a repository, run one that an older program has recorded in
// a run of the repository.
func of(origin string, p format.Publication) format.Publication {
	p.Origin = origin
	return run(origin, p)
}

func run(origin string, p format.Publication) format.Publication {
	p.RunURL = "https://" + origin + "/actions/runs/1"
	return p
}

// folder makes a publication outside CI.
func folder(flake, origin string, age float64, root string) format.Publication {
	p := indextest.From("", age, root)
	p.Flake, p.Origin = flake, origin
	return p
}

var month = Retention{Last: 1, Age: 30 * 24 * time.Hour, PullRequests: 7 * 24 * time.Hour}

func TestJudge(t *testing.T) {
	t.Parallel()
	const main, feature, queue = "refs/heads/main", "refs/heads/feature/x", "refs/heads/gh-readonly-queue/main/pr-12-0123abc"
	last := func(n int, branches ...string) Retention {
		r := month
		r.Last, r.Branches = n, branches
		return r
	}
	for _, tc := range []struct {
		name     string
		r        Retention
		pubs     []format.Publication
		unpinned []format.Unpin
		want     []string // "+" or "-" and the reason, by time
	}{
		{name: "nothing", r: month},
		{
			name: "a branch", r: month,
			pubs: []format.Publication{indextest.From(main, 1, "c"), indextest.From(main, 40, "b"), indextest.From(main, 90, "a")},
			want: []string{"-main, replaced 2026-10-22", "+main, replaced 2026-11-30, kept until 2026-12-30", "+newest of main"},
		},
		{
			name: "old, but the newest", r: month,
			pubs: []format.Publication{indextest.From(main, 900, "a")},
			want: []string{"+newest of main"},
		},
		{
			name: "the newest three", r: last(3),
			pubs: []format.Publication{indextest.From(main, 50, "e"), indextest.From(main, 60, "d"), indextest.From(main, 70, "c"), indextest.From(main, 80, "b"), indextest.From(main, 90, "a")},
			want: []string{
				"-main, replaced 2026-10-02", "-main, replaced 2026-10-12",
				"+3rd newest of main", "+2nd newest of main", "+newest of main",
			},
		},
		{
			name: "parts and the whole", r: month,
			pubs: []format.Publication{
				part(indextest.From(main, 101, "a"), "x"), part(indextest.From(main, 101, "b"), "y"), part(indextest.From(main, 100, "ab"), "x", "y"), // a whole one
				part(indextest.From(main, 50, "c"), "y"), part(indextest.From(main, 49, "ac"), "x", "y"),
				part(indextest.From(main, 2, "d"), "x"), // another part has failed
				indextest.From(main, 1, "other line"),
			},
			want: []string{
				"-main, replaced 2026-08-22", "-main, replaced 2026-08-23", "-main, replaced 2026-10-13", "-main, replaced 2026-10-13",
				"+newest of main", "+newest of main", "+newest of main",
			},
		},
		{
			name: "pushed out of three lately", r: last(3),
			pubs: []format.Publication{indextest.From(main, 1, "d"), indextest.From(main, 70, "c"), indextest.From(main, 80, "b"), indextest.From(main, 90, "a")},
			want: []string{"+main, replaced 2026-11-30, kept until 2026-12-30", "+3rd newest of main", "+2nd newest of main", "+newest of main"},
		},
		{
			name: "none for ever", r: last(0),
			pubs: []format.Publication{indextest.From(main, 20, "c"), indextest.From(main, 40, "b"), indextest.From(main, 90, "a"), indextest.From(feature, 31, "x")},
			want: []string{
				"-main, replaced 2026-10-22", "+main, replaced 2026-11-11, kept until 2026-12-11",
				"-feature/x, published 2026-10-31", "+main, published 2026-11-11, kept until 2026-12-11",
			},
		},
		{
			name: "other branches", r: last(1, "main", "release-*"),
			pubs: []format.Publication{indextest.From(feature, 40, "a"), indextest.From("refs/heads/release-1", 400, "b"), indextest.From(main, 401, "c"), indextest.From("refs/heads/release-1/x", 3, "d")},
			want: []string{"+newest of main", "+newest of release-1", "-feature/x, published 2026-10-22", "+release-1/x, published 2026-11-28, kept until 2026-12-28"},
		},
		{
			name: "a glob that is none keeps", r: last(1, "[", "x"),
			pubs: []format.Publication{indextest.From(main, 400, "a")},
			want: []string{"+newest of main"},
		},
		{
			// what stays the same for long was made when it was last published,
			// and took the place of what was before when it came
			name: "the same again", r: last(1, "main"),
			pubs: []format.Publication{
				indextest.From(main, 90, "a"), indextest.From(main, 50, "b"), indextest.From(main, 1, "b"),
				indextest.From(feature, 80, "x"), indextest.From(feature, 5, "x"),
			},
			want: []string{
				"-main, replaced 2026-10-12", "+feature/x, published 2026-11-26, kept until 2026-12-26",
				"+newest of main", "+feature/x, published 2026-11-26, kept until 2026-12-26", "+newest of main",
			},
		},
		{
			name: "back and forth", r: month,
			pubs: []format.Publication{indextest.From(main, 90, "a"), indextest.From(main, 50, "b"), indextest.From(main, 40, "a")},
			want: []string{"-main, replaced 2026-10-12", "-main, replaced 2026-10-22", "+newest of main"},
		},
		{
			name: "lines apart", r: month,
			pubs: []format.Publication{
				indextest.From(main, 104, "a"),
				with(indextest.From(main, 103, "b"), func(p *format.Publication) { p.Systems = []string{"aarch64-linux"} }),
				with(indextest.From(main, 102, "c"), func(p *format.Publication) { p.Selection = "checks" }),
				with(indextest.From(main, 101, "d"), func(p *format.Publication) { p.Flake = "github:o/r/123" }),
				with(indextest.From("", 100, "e"), func(p *format.Publication) { p.Flake = "./config" }),
				with(indextest.From("", 99, "f"), func(p *format.Publication) { p.Flake = "." }),
				with(indextest.From("", 98, "00000000000000000000000000000000-hello-1.0"), func(p *format.Publication) {
					p.Selection, p.Roots = "hello", append(p.Roots, format.Root{Path: "z"})
				}),
				indextest.From("refs/notes/x", 97, "g"),
			},
			want: []string{
				"-main, replaced 2026-08-22", "+newest of main", "+newest of main", "+newest of main",
				"+newest of ./config", "+newest of .", "+newest of hello-1.0 and 1 more", "+newest of refs/notes/x",
			},
		},
		{
			// a build that has been broken for long does not cost what worked
			name: "partial ones", r: month,
			pubs: []format.Publication{
				indextest.From(main, 200, "a"), indextest.From(main, 100, "b"),
				with(indextest.From(main, 90, "c"), func(p *format.Publication) { p.Partial = true }),
				with(indextest.From(main, 80, "d"), func(p *format.Publication) { p.Partial = true }),
			},
			want: []string{"-main, replaced 2026-08-23", "+newest of main", "-main, replaced 2026-09-12", "+newest of main"},
		},
		{
			// each repository has a newest of each branch, tag and pin
			name: "repositories", r: month,
			pubs: []format.Publication{
				of("github.com/me/one", indextest.From(main, 104, "a")), of("github.com/me/two", indextest.From(main, 103, "b")), of("github.com/me/two", indextest.From(main, 102, "c")),
				of("github.com/me/one", indextest.From("refs/tags/v1", 101, "d")), of("github.com/me/two", indextest.From("refs/tags/v1", 100, "e")),
				of("github.com/me/one", indextest.Pinned(indextest.From(feature, 99, "f"), "prod", 1)), of("github.com/me/two", indextest.Pinned(indextest.From(feature, 98, "g"), "prod", 1)),
				of("github.com/me/two", indextest.Pinned(indextest.From(feature, 97, "h"), "prod", 1)),
				of("github.com/me/one", part(indextest.From(main, 96, "i"), "x", "y")), of("github.com/me/two", part(indextest.From(main, 95, "j"), "x")),
				of("github.com/me/one", indextest.From("refs/pull/1/merge", 1, "k")), of("github.com/me/two", indextest.From("refs/pull/1/merge", 1, "l")),
			},
			want: []string{
				"+newest of main in github.com/me/one", "-main in github.com/me/two, replaced 2026-08-21", "+newest of main in github.com/me/two",
				"+tag v1 in github.com/me/one", "+tag v1 in github.com/me/two",
				"+pin prod in github.com/me/one", "-feature/x in github.com/me/two, replaced 2026-08-26", "+pin prod in github.com/me/two",
				"+newest of main in github.com/me/one", "+newest of main in github.com/me/two",
				"+pull request 1 in github.com/me/one, published 2026-11-30, kept until 2026-12-07", "+pull request 1 in github.com/me/two, published 2026-11-30, kept until 2026-12-07",
			},
		},
		{
			// of what older programs recorded, the run's page tells the repository
			name: "repositories, from before there was an origin", r: month,
			pubs: []format.Publication{
				run("github.com/me/one", indextest.From(main, 104, "a")), run("github.com/me/two", indextest.From(main, 103, "b")), indextest.From(main, 102, "c"),
				of("github.com/me/one", indextest.From(main, 101, "d")), of("github.com/me/three", indextest.From(main, 100, "e")),
				run("github.com/me/three", indextest.From(main, 99, "f")), indextest.From(main, 98, "g"),
			},
			want: []string{
				"-main in github.com/me/one, replaced 2026-08-22", "+newest of main in github.com/me/two", "-main, replaced 2026-08-25",
				"+newest of main in github.com/me/one", "-main in github.com/me/three, replaced 2026-08-24", "+newest of main in github.com/me/three", "+newest of main",
			},
		},
		{
			name: "one repository before and after there was an origin", r: month,
			pubs: []format.Publication{run("github.com/me/one", indextest.From(main, 104, "a")), of("github.com/me/one", indextest.From(main, 103, "b"))},
			want: []string{"-main, replaced 2026-08-20", "+newest of main"},
		},
		{
			name: "flakes outside CI", r: month,
			pubs: []format.Publication{
				folder(".", "", 104, "a"), folder(".", "", 103, "b"), folder("github:me/one", "", 102, "c"),
				folder("laptop:/home/me/one", "laptop:/home/me/one", 101, "d"), folder("laptop:/home/me/two", "laptop:/home/me/two", 100, "e"),
				// an older program has merged segments, and dropped the origin
				folder("laptop:/home/me/two", "", 99, "f"), folder(".", "", 98, "g"), folder("github:me/one", "", 97, "h"),
				folder("github.com/me/one?dir=x", "github.com/me/one?dir=x", 96, "i"), of("github.com/me/one", indextest.From(main, 95, "j")),
			},
			want: []string{
				"-., replaced 2026-08-20", "-., replaced 2026-08-25", "-github:me/one, replaced 2026-08-26",
				"+newest of laptop:/home/me/one", "-laptop:/home/me/two, replaced 2026-08-24", "+newest of laptop:/home/me/two",
				"+newest of .", "+newest of github:me/one", "+newest of github.com/me/one?dir=x", "+newest of main",
			},
		},
		{
			name: "systems in another order", r: month,
			pubs: []format.Publication{
				with(indextest.From(main, 100, "a"), func(p *format.Publication) { p.Systems = []string{"a", "b"} }),
				with(indextest.From(main, 50, "b"), func(p *format.Publication) { p.Systems = []string{"b", "a"} }),
			},
			want: []string{"-main, replaced 2026-10-12", "+newest of main"},
		},
		{
			name: "pull requests", r: last(9),
			pubs: []format.Publication{
				indextest.From("refs/pull/12/merge", 8, "a"), indextest.From("refs/pull/12/merge", 6, "b"), indextest.From("refs/pull/12/merge", 7, "c"),
				indextest.From("refs/pull/13/head", 2, "d"), indextest.From(queue, 3, "e"), indextest.From(queue, 30, "f"), indextest.From("refs/merge-requests/4/head", 1, "g"),
			},
			want: []string{
				"-merge queue of main, published 2026-11-01", "-pull request 12, published 2026-11-23", "-pull request 12, published 2026-11-24",
				"+pull request 12, published 2026-11-25, kept until 2026-12-02", "+merge queue of main, published 2026-11-28, kept until 2026-12-05",
				"+pull request 13, published 2026-11-29, kept until 2026-12-06", "+merge request 4, published 2026-11-30, kept until 2026-12-07",
			},
		},
		{
			name: "tags", r: last(0, "main"),
			pubs: []format.Publication{indextest.From("refs/tags/v1", 500, "a"), indextest.From("refs/tags/v1", 400, "b"), indextest.From("refs/tags/v2", 450, "c"), indextest.From("refs/tags/v3", 40, "d"), indextest.From("refs/tags/v3", 4, "e")},
			want: []string{
				"-tag v1, replaced 2025-10-27", "+tag v2", "+tag v1",
				"+tag v3, replaced 2026-11-27, kept until 2026-12-27", "+tag v3",
			},
		},
		{
			name: "pins", r: month,
			pubs: []format.Publication{
				indextest.Pinned(indextest.From(main, 104, "a"), "prod", 1), indextest.Pinned(indextest.From(main, 103, "b"), "prod", 1), indextest.Pinned(indextest.From(main, 102, "c"), "prod", 2),
				indextest.Pinned(indextest.From(main, 101, "d"), "test", 0), indextest.From(main, 1, "e"),
				with(indextest.Pinned(indextest.From(main, 100, "f"), "prod", 1), func(p *format.Publication) { p.Systems = []string{"aarch64-linux"} }),
				indextest.Pinned(indextest.From("refs/pull/1/merge", 99, "g"), "prod", 1),
			},
			want: []string{
				"-main, replaced 2026-08-20", "+pin prod, 2nd newest", "+pin prod", "+pin test",
				"+pin prod", "+pin prod", "+newest of main",
			},
		},
		{
			name: "the same content, pinned twice", r: month,
			pubs: []format.Publication{
				indextest.Pinned(indextest.From(main, 104, "a"), "prod", 2), indextest.Pinned(indextest.From(main, 103, "b"), "prod", 2), indextest.Pinned(indextest.From(main, 102, "b"), "prod", 2),
				indextest.From(main, 50, "c"),
			},
			want: []string{"+pin prod, 2nd newest", "+pin prod", "+pin prod", "+newest of main"},
		},
		{
			name: "unpinned", r: month,
			pubs: []format.Publication{
				indextest.Pinned(indextest.From(main, 104, "a"), "prod", 9), indextest.Pinned(indextest.From(main, 103, "b"), "prod", 9), indextest.Pinned(indextest.From(main, 102, "c"), "prod", 9),
				indextest.Pinned(indextest.From(main, 101, "d"), "test", 1), indextest.From(main, 40, "e"),
			},
			unpinned: []format.Unpin{{Name: "prod", Time: indextest.DaysAgo(103)}, {Name: "prod", Time: indextest.DaysAgo(500)}, {Name: "other", Time: indextest.Noon}},
			want: []string{
				"-main, replaced 2026-08-20", "-main, replaced 2026-08-21",
				"+pin prod", "+pin test", "+newest of main",
			},
		},
		{
			name: "a clock ahead", r: month,
			pubs: []format.Publication{indextest.From(main, -1000, "c"), indextest.From(main, 40, "b"), indextest.From(main, 90, "a"), indextest.From("refs/pull/1/merge", -1000, "x"), indextest.Pinned(indextest.From(feature, -1000, "y"), "p", 1)},
			// unpinned before its clock's time, but after it was made
			unpinned: []format.Unpin{{Name: "p", Time: indextest.Noon}},
			want: []string{
				"-main, replaced 2026-10-22", "+newest of main",
				"+feature/x, published 2029-08-27, which is to come", "+main, published 2029-08-27, which is to come", "+pull request 1, published 2029-08-27, which is to come",
			},
		},
		{
			name: "a clock a little ahead", r: month,
			pubs: []format.Publication{indextest.From(main, -0.9, "c"), indextest.From(main, 40, "b")},
			want: []string{"+main, replaced 2026-12-01, kept until 2026-12-31", "+newest of main"},
		},
		{
			name: "no time at all", r: month,
			pubs: []format.Publication{with(indextest.From(main, 0, "a"), func(p *format.Publication) { p.Time = time.Time{} }), indextest.From(main, 2, "b"), indextest.From(main, 50, "c")},
			want: []string{"-main, replaced 2026-10-12", "+main, replaced 2026-11-29, kept until 2026-12-29", "+newest of main"},
		},
		{
			name: "the last moment", r: month,
			pubs: []format.Publication{indextest.From("refs/pull/1/merge", 7, "a"), indextest.From("refs/pull/1/merge", 6.999, "b")},
			want: []string{"-pull request 1, published 2026-11-24", "+pull request 1, published 2026-11-24, kept until 2026-12-01"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			before := slices.Clone(tc.pubs)
			var got []string
			for _, v := range tc.r.Judge(tc.pubs, tc.unpinned, indextest.Noon) {
				sign := "-"
				if v.Keep {
					sign = "+"
				}
				got = append(got, sign+v.Reason)
				if v.Pinned != strings.HasPrefix(v.Reason, "pin ") {
					t.Errorf("%q is pinned: %v", v.Reason, v.Pinned)
				}
				if v.Keep != (v.Until.IsZero() || v.Until.After(indextest.Noon)) {
					t.Errorf("%q is kept: %v, until %v", v.Reason, v.Keep, v.Until)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tc.want, "\n\t"))
			}
			if !slices.EqualFunc(before, tc.pubs, format.Publication.Same) {
				t.Error("the publications were changed")
			}
		})
	}
}

// Whatever the publications are, each is kept as the rules say of it alone.
func TestJudgeAgainstTheRules(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	for n := range 3000 {
		r := Retention{Last: rng.IntN(4), Age: time.Duration(rng.IntN(20)) * time.Hour, PullRequests: time.Duration(rng.IntN(10)) * time.Hour}
		if rng.IntN(2) == 0 {
			r.Branches = []string{"m*"}
		}
		var pubs []format.Publication
		for range rng.IntN(25) {
			p := format.Publication{
				Time:    indextest.Noon.Add(-time.Duration(rng.IntN(60)-3) * time.Hour),
				Ref:     pick("refs/heads/main", "refs/heads/x", "refs/pull/1/merge", "refs/tags/v1", "", "refs/heads/gh-readonly-queue/main/pr-1"),
				Flake:   pick(".", "./config"),
				Systems: []string{pick("a", "a", "b")}, Selection: pick("", "", "s"), Roots: []format.Root{{Path: pick("1", "2", "3")}},
			}
			p.Partial, p.Series = rng.IntN(4) == 0, pick("", "", "t")
			p.Origin, p.RunURL = pick("", "", "h/o/one", "h/o/two"), pick("", "https://h/o/one/actions/runs/1", "https://h/o/two/-/jobs/2", "https://h/o/one")
			if rng.IntN(4) == 0 {
				p.Pin, p.PinKeep = pick("p", "q"), rng.IntN(4)
			}
			pubs = append(pubs, p)
		}
		var unpinned []format.Unpin
		for range rng.IntN(3) {
			unpinned = append(unpinned, format.Unpin{Name: pick("p", "q"), Time: indextest.Noon.Add(-time.Duration(rng.IntN(60)) * time.Hour)})
		}
		verdicts := r.Judge(pubs, unpinned, indextest.Noon)
		if len(verdicts) != len(pubs) {
			t.Fatalf("seed %d, run %d: got %d verdicts for %d publications", seed, n, len(verdicts), len(pubs))
		}
		sorted := make([]format.Publication, len(verdicts))
		for i, v := range verdicts {
			sorted[i] = v.Publication
		}
		if !slices.IsSortedFunc(sorted, func(a, b format.Publication) int { return a.Time.Compare(b.Time) }) {
			t.Fatalf("seed %d, run %d: not in the order of time", seed, n)
		}
		for i, v := range verdicts {
			if want := naiveKeep(r, sorted, i, unpinned, sameLine); v.Keep != want {
				t.Fatalf("seed %d, run %d: publication %d of\n%s\n%+v %+v\nis kept: %v (%s), want %v", seed, n, i, listing(verdicts), r, unpinned, v.Keep, v.Reason, want)
			}
		}
		rng.Shuffle(len(pubs), func(i, j int) { pubs[i], pubs[j] = pubs[j], pubs[i] })
		if again := r.Judge(pubs, unpinned, indextest.Noon); listing(again) != listing(verdicts) {
			t.Fatalf("seed %d, run %d: in another order got\n%s\nwant\n%s", seed, n, listing(again), listing(verdicts))
		}
	}
}

func listing(vs []Verdict) string {
	var b strings.Builder
	for _, v := range vs {
		fmt.Fprintf(&b, "%v %v %s %s %s %s %s %q %s %q %d: %v %s %v\n", v.Publication.Time, v.Publication.Systems, v.Publication.Ref, v.Publication.Flake, v.Publication.Origin, v.Publication.RunURL,
			v.Publication.Selection, v.Publication.Series, v.Publication.Roots[0].Path, v.Publication.Pin, v.Publication.PinKeep, v.Keep, v.Reason, v.Until)
	}
	return b.String()
}

// sameBranch is what all publications were compared by that have no origin.
func sameBranch(p, q format.Publication) bool {
	return p.Ref == q.Ref && (p.Ref != "" || p.Flake == q.Flake) && p.Series == q.Series &&
		(p.Series != "" || p.Systems[0] == q.Systems[0] && p.Selection == q.Selection)
}

func sameLine(p, q format.Publication) bool {
	repository := map[string]string{"https://h/o/one/actions/runs/1": "h/o/one", "https://h/o/two/-/jobs/2": "h/o/two"}
	if p.Ref != "" {
		a, b := p.Origin, q.Origin
		if a == "" {
			a = repository[p.RunURL]
		}
		if b == "" {
			b = repository[q.RunURL]
		}
		return a == b && sameBranch(p, q)
	}
	if p.Origin != "" {
		p.Flake = p.Origin
	}
	if q.Origin != "" {
		q.Flake = q.Origin
	}
	return sameBranch(p, q)
}

// What was kept before publications had an origin is kept: of publications that
// older programs have recorded every root that was kept, and beside newer ones
// all that these do not certainly replace.
func TestJudgeKeepsWhatWasKept(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	replaced := 0
	for n := range 3000 {
		r := Retention{Last: 1 + rng.IntN(3), Age: time.Duration(rng.IntN(20)) * time.Hour, PullRequests: time.Duration(rng.IntN(10)) * time.Hour}
		var pubs []format.Publication
		for i := range rng.IntN(25) {
			p := format.Publication{
				Time: indextest.Noon.Add(time.Duration(i-30) * time.Hour), Ref: pick("refs/heads/main", "refs/pull/1/merge", "refs/tags/v1", ""), Flake: pick(".", "h/o/one"),
				Systems: []string{"a"}, Selection: pick("", "s"), Series: pick("", "", "t"), Partial: rng.IntN(4) == 0,
				RunURL: pick("", "https://h/o/one/actions/runs/1", "https://h/o/two/-/jobs/2"), Roots: []format.Root{{Path: pick("1", "2", "3", "4", "5", "6")}},
			}
			if rng.IntN(4) == 0 {
				p.Pin, p.PinKeep = pick("p", "q"), 2
			}
			pubs = append(pubs, p)
		}
		kept := func(pubs []format.Publication) map[string]bool {
			roots := map[string]bool{}
			for _, v := range r.Judge(pubs, nil, indextest.Noon) {
				if v.Keep {
					roots[v.Publication.Roots[0].Path] = true
				}
			}
			return roots
		}
		after := kept(pubs)
		for i, p := range pubs {
			if naiveKeep(r, pubs, i, nil, sameBranch) && !after[p.Roots[0].Path] {
				t.Fatalf("seed %d, run %d: %+v was kept\n%s", seed, n, p, listing(r.Judge(pubs, nil, indextest.Noon)))
			}
		}
		// another repository and another folder replace nothing of it
		var others []format.Publication
		for i, p := range pubs {
			p.Time, p.Origin, p.RunURL, p.Roots = indextest.Noon.Add(time.Duration(i)*time.Second), "h/o/other", pick("", "https://h/o/other/-/jobs/3"), []format.Root{{Path: "x" + pick("1", "2")}}
			if p.Ref == "" {
				p.Origin, p.Flake = "laptop:/x", "laptop:/x"
			} else if rng.IntN(2) == 0 {
				p.Origin = "" // by an older program
				p.RunURL = "https://h/o/other/-/jobs/3"
			}
			others = append(others, p)
		}
		before, beside := kept(pubs), kept(slices.Concat(pubs, others))
		for root := range before {
			if !beside[root] {
				t.Fatalf("seed %d, run %d: %s was kept before others came\n%s", seed, n, root, listing(r.Judge(slices.Concat(pubs, others), nil, indextest.Noon)))
			}
		}
		for i := range pubs { // but the same repository does
			if !naiveKeep(r, slices.Concat(pubs, others), i, nil, sameLine) {
				replaced++
			}
		}
	}
	if replaced == 0 {
		t.Error("nothing was ever replaced")
	}
}

// naiveKeep applies the rules to one publication, by looking at those after
// it, without any grouping.
func naiveKeep(r Retention, pubs []format.Publication, i int, unpinned []format.Unpin, same func(p, q format.Publication) bool) bool {
	p := pubs[i]
	at := func(q format.Publication) time.Time {
		return time.UnixMicro(min(q.Time.UnixMicro(), indextest.Noon.UnixMicro()))
	}
	hasPin := func(q format.Publication) bool {
		return q.Pin == p.Pin && !slices.ContainsFunc(unpinned, func(u format.Unpin) bool { return u.Name == q.Pin && !u.Time.Before(at(q)) })
	}
	// changes are the publications after p that brought something new, made
	// is when p's row ends
	later := func(counts func(format.Publication) bool) (changes []format.Publication, made time.Time, newest format.Publication) {
		made, newest = at(p), p
		for _, q := range pubs[i+1:] {
			if !same(p, q) || !counts(q) {
				continue
			}
			if q.Roots[0] != newest.Roots[0] {
				changes = append(changes, q)
			} else if len(changes) == 0 {
				made = at(q)
			}
			newest = q
		}
		return changes, made, newest
	}
	if p.Pin != "" && hasPin(p) {
		if changes, _, newest := later(hasPin); len(changes) < max(newest.PinKeep, 1) {
			return true
		}
	}
	changes, made, _ := later(func(q format.Publication) bool { return p.Partial || !q.Partial })
	if strings.HasPrefix(p.Ref, "refs/pull/") || strings.Contains(p.Ref, "queue") {
		return made.Add(r.PullRequests).After(indextest.Noon)
	}
	last := r.Last
	if branch, ok := strings.CutPrefix(p.Ref, "refs/heads/"); ok && r.Branches != nil {
		if match, _ := path.Match(r.Branches[0], branch); !match {
			last = 0
		}
	}
	if strings.HasPrefix(p.Ref, "refs/tags/") {
		last = max(last, 1)
	}
	if len(changes) < last {
		return true
	}
	since := made
	if len(changes) > 0 {
		since = at(changes[max(last, 1)-1])
	}
	return since.Add(r.Age).After(indextest.Noon)
}

func TestOrdinal(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 102: "102nd", 111: "111th"} {
		if got := ordinal(n - 1); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
