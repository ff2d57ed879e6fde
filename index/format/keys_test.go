package format_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/org/nixoci-action/index/format"
	"github.com/org/nixoci-action/internal/indextest"
)

func publics(ps ...indextest.Person) []string {
	out := []string{}
	for _, p := range ps {
		out = append(out, p.Public)
	}
	slices.Sort(out)
	return out
}

func sorted(keys []string) []string {
	out := append([]string{}, keys...)
	slices.Sort(out)
	return out
}

func TestFollowKeys(t *testing.T) {
	ps := indextest.People(t, 6)
	a, b, c, d, evil := ps[0], ps[1], ps[2], ps[3], ps[5]
	alias := indextest.Person{Public: "other-name:" + strings.SplitN(a.Public, ":", 2)[1]}
	forged := evil.Adds(evil)
	forged.Signature = a.Public[:strings.Index(a.Public, ":")] + forged.Signature[strings.Index(forged.Signature, ":"):]
	forged.By = a.Public
	changed := a.Adds(b)
	changed.Add = evil.Public
	longer := a.Retires(b, c)
	longer.Keeps = append(longer.Keeps, evil.Public)
	for name, tt := range map[string]struct {
		roots      []indextest.Person
		statements format.KeyStatements
		trusted    []indextest.Person
		retired    []indextest.Person
	}{
		"no statement":                     {[]indextest.Person{a}, nil, []indextest.Person{a}, nil},
		"added":                            {[]indextest.Person{a}, format.KeyStatements{a.Adds(b)}, []indextest.Person{a, b}, nil},
		"added by an added one":            {[]indextest.Person{a}, format.KeyStatements{b.Adds(c), a.Adds(b)}, []indextest.Person{a, b, c}, nil},
		"added by nobody we know":          {[]indextest.Person{a}, format.KeyStatements{evil.Adds(evil), evil.Adds(a)}, []indextest.Person{a}, nil},
		"retired by nobody we know":        {[]indextest.Person{a}, format.KeyStatements{evil.Retires(a, evil)}, []indextest.Person{a}, nil},
		"signed under another's name":      {[]indextest.Person{a}, format.KeyStatements{forged}, []indextest.Person{a}, nil},
		"changed after it was signed":      {[]indextest.Person{a}, format.KeyStatements{changed}, []indextest.Person{a}, nil},
		"keeps more than was signed":       {[]indextest.Person{a, b, c}, format.KeyStatements{longer}, []indextest.Person{a, b, c}, nil},
		"rotated":                          {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b)}, []indextest.Person{b}, []indextest.Person{a}},
		"rotated by the old one":           {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), a.Retires(a, b)}, []indextest.Person{b}, []indextest.Person{a}},
		"rotated twice":                    {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), b.Adds(c), c.Retires(b, c)}, []indextest.Person{c}, []indextest.Person{a, b}},
		"with what it has added":           {[]indextest.Person{a, b}, format.KeyStatements{a.Adds(c), c.Adds(d), b.Retires(a)}, []indextest.Person{b}, []indextest.Person{a}},
		"without what others have added":   {[]indextest.Person{a, b}, format.KeyStatements{a.Adds(c), b.Adds(c), b.Retires(a)}, []indextest.Person{b, c}, []indextest.Person{a}},
		"adds after it was retired":        {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), a.Adds(evil), evil.Adds(d)}, []indextest.Person{b}, []indextest.Person{a}},
		"added again":                      {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), b.Adds(a)}, []indextest.Person{b}, []indextest.Person{a}},
		"added again under another name":   {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), b.Adds(alias)}, []indextest.Person{b}, []indextest.Person{a, alias}},
		"two retire each other":            {[]indextest.Person{a, b}, format.KeyStatements{a.Retires(b), b.Retires(a)}, nil, []indextest.Person{a, b}},
		"a leaked one keeps the other out": {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), a.Adds(evil), evil.Retires(a, evil)}, nil, []indextest.Person{a}},
		"a leaked one retires":             {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Retires(a, b), a.Retires(b)}, nil, []indextest.Person{a, b}},
		"who knows the new one only":       {[]indextest.Person{b}, format.KeyStatements{a.Adds(b), b.Retires(a, b), a.Retires(b), a.Adds(evil)}, []indextest.Person{b}, []indextest.Person{a}},
		"kept by each on the way":          {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Adds(c), a.Retires(b, c), a.Adds(d), d.Retires(a, c, d)}, []indextest.Person{c, d}, []indextest.Person{a, b}},
		"kept by one on the way":           {[]indextest.Person{a}, format.KeyStatements{a.Adds(b), b.Adds(c), a.Retires(b), a.Adds(d), d.Retires(a, c, d)}, []indextest.Person{d}, []indextest.Person{a, b}},
		"in a circle":                      {[]indextest.Person{a}, format.KeyStatements{b.Adds(c), c.Adds(b)}, []indextest.Person{a}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				rand.Shuffle(len(tt.statements), func(i, j int) {
					tt.statements[i], tt.statements[j] = tt.statements[j], tt.statements[i]
				})
				got := format.FollowKeys(publics(tt.roots...), publics(ps...), tt.statements)
				if !slices.Equal(sorted(got.Trusted), publics(tt.trusted...)) || !slices.Equal(sorted(got.Retired), publics(tt.retired...)) {
					t.Fatalf("got trusted %v, retired %v", got.Trusted, got.Retired)
				}
				for _, k := range publics(ps...) {
					if n := count(got, k); n != 1 {
						t.Errorf("%s stands in %d of the lists", k, n)
					}
				}
			}
		})
	}
}

func count(c format.KeyChain, k string) (n int) {
	for _, list := range [][]string{c.Trusted, c.Retired, c.Unvouched} {
		if slices.Contains(list, k) {
			n++
		}
	}
	return n
}

// randomly makes statements among people, some of them by nobody who counts.
func randomly(r *rand.Rand, ps []indextest.Person, n int) format.KeyStatements {
	var out format.KeyStatements
	for range n {
		p, q := ps[r.IntN(len(ps))], ps[r.IntN(len(ps))]
		if r.IntN(3) > 0 {
			out = append(out, p.Adds(q))
			continue
		}
		var keeps []indextest.Person
		for _, k := range ps {
			if r.IntN(3) == 0 {
				keeps = append(keeps, k)
			}
		}
		out = append(out, p.Retires(q, keeps...))
	}
	return out
}

// What holds for any statements, whoever makes them.
func TestFollowKeysProperties(t *testing.T) {
	ps := indextest.People(t, 7)
	insiders, outsiders := ps[:5], ps[5:]
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 400 {
		roots := publics(insiders[:1+r.IntN(3)]...)
		said := randomly(r, insiders, r.IntN(8))
		got := format.FollowKeys(roots, nil, said)
		fail := func(what string, other format.KeyChain) {
			t.Helper()
			text, _ := json.MarshalIndent(said, "", " ")
			t.Fatalf("seed %d, round %d: %s: got %v and %v\nroots %v\n%s", seed, i, what, got, other, roots, text)
		}
		same := func(a, b format.KeyChain) bool {
			return slices.Equal(sorted(a.Trusted), sorted(b.Trusted)) && slices.Equal(sorted(a.Retired), sorted(b.Retired))
		}
		// the order says nothing
		shuffled := slices.Clone(said)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if other := format.FollowKeys(roots, nil, shuffled); !same(got, other) {
			fail("in another order", other)
		}
		// who has no key changes nothing, whatever he says and copies
		noise := randomly(r, outsiders, 4)
		for _, s := range said {
			s.Signature = outsiders[0].Says(s).Signature
			noise = append(noise, s)
		}
		for _, s := range randomly(r, outsiders, 2) {
			s.Add, s.Retire = insiders[0].Public, ""
			noise = append(noise, s)
		}
		if other := format.FollowKeys(roots, nil, append(slices.Clone(noise), said...)); !same(got, other) {
			fail("with what outsiders say", other)
		}
		if other := format.FollowKeys(roots, nil, noise); !slices.Equal(sorted(other.Trusted), sorted(roots)) || len(other.Retired) > 0 {
			fail("only what outsiders say", other)
		}
		// what counts is enough, as it is remembered
		if other := format.FollowKeys(roots, nil, got.Counted); !same(got, other) {
			fail("only what counts", other)
		}
		// what is retired stays so, whatever is said later
		more := format.FollowKeys(roots, nil, append(slices.Clone(said), randomly(r, insiders, 3)...))
		for _, k := range got.Retired {
			if slices.Contains(more.Trusted, k) || !slices.Contains(more.Retired, k) {
				fail("a retired key came back", more)
			}
		}
		// a retirement lets nobody in
		retirement := insiders[r.IntN(5)].Retires(insiders[r.IntN(5)], insiders[r.IntN(5)])
		for _, k := range format.FollowKeys(roots, nil, append(slices.Clone(said), retirement)).Trusted {
			if !slices.Contains(got.Trusted, k) {
				fail("let in by a retirement", more)
			}
		}
	}
}

// Who reads a cache for the first time believes the keys that say something.
func TestFirstKeys(t *testing.T) {
	ps := indextest.People(t, 4)
	a, b, c := ps[0], ps[1], ps[2]
	for name, tt := range map[string]struct {
		c    format.Config
		want []indextest.Person
	}{
		"no statements":    {format.Config{PublicKeys: publics(a, b)}, []indextest.Person{a, b}},
		"rotated":          {format.Config{PublicKeys: publics(a, b), KeyStatements: format.KeyStatements{a.Adds(b), b.Retires(a, b)}}, []indextest.Person{b}},
		"another is named": {format.Config{PublicKeys: publics(a, b, c), KeyStatements: format.KeyStatements{a.Adds(b)}}, []indextest.Person{a, b}},
		"by nobody named":  {format.Config{PublicKeys: publics(a), KeyStatements: format.KeyStatements{b.Adds(c)}}, []indextest.Person{a}},
		"nothing":          {format.Config{}, nil},
	} {
		first := tt.c.FirstKeys()
		if got := format.FollowKeys(first, nil, tt.c.KeyStatements).Trusted; !slices.Equal(sorted(got), publics(tt.want...)) {
			t.Errorf("%s: got %v of %v", name, got, first)
		}
	}
}

// Whatever stands where statements should be, the rest can be read, and what is
// good among them counts.
func TestBadKeyStatements(t *testing.T) {
	ps := indextest.People(t, 3)
	a, b := ps[0], ps[1]
	good, err := json.Marshal(a.Adds(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`[%s]`, `[1,"x",null,{},[],%s]`, `[{"add":5},{"time":"yesterday"},%s]`, `[{"add":"x","sig":"y"},%[1]s,%[1]s]`,
		`[` + strings.Repeat(`{"add":"a:b"},`, 500) + `%s]`,
	} {
		var c format.Config
		if err := json.Unmarshal([]byte(`{"priority":7,"keyStatements":`+fmt.Sprintf(text, good)+`}`), &c); err != nil || c.Priority != 7 {
			t.Fatalf("%.80s: %v", text, err)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%.80s: %v", text, err)
		}
		if got := format.FollowKeys(publics(a), nil, c.KeyStatements); len(c.KeyStatements) != 1 || len(got.Trusted) != 2 {
			t.Errorf("%.80s: got %v of %v", text, got.Trusted, c.KeyStatements)
		}
	}
	for _, text := range []string{`5`, `"x"`, `{"a":1}`, `null`, `[` + strings.Repeat(`{"add":"a:b"},`, 5000) + string(good) + `]`} {
		var c format.Config
		if err := json.Unmarshal([]byte(`{"keyStatements":`+text+`}`), &c); err != nil || len(c.KeyStatements) > 0 {
			t.Errorf("%.40s: got %v, %v", text, c.KeyStatements, err)
		}
	}
	for name, s := range map[string]format.KeyStatement{
		"nobody says it":      {Add: b.Public, Time: a.Adds(b).Time, Signature: a.Adds(b).Signature},
		"both":                a.Says(format.KeyStatement{Add: b.Public, Retire: a.Public}),
		"neither":             a.Says(format.KeyStatement{}),
		"keeps what it adds":  a.Says(format.KeyStatement{Add: b.Public, Keeps: []string{a.Public}}),
		"a semicolon":         a.Says(format.KeyStatement{Add: "x;y" + b.Public[strings.Index(b.Public, ":"):]}),
		"a comma":             a.Says(format.KeyStatement{Retire: b.Public, Keeps: []string{"x,y" + b.Public[strings.Index(b.Public, ":"):]}}),
		"no name":             a.Says(format.KeyStatement{Add: b.Public[strings.Index(b.Public, ":"):]}),
		"a long name":         a.Says(format.KeyStatement{Add: strings.Repeat("x", 300) + b.Public}),
		"a line of its own":   a.Says(format.KeyStatement{Add: "x\ny" + b.Public[strings.Index(b.Public, ":"):]}),
		"keeps far too many":  a.Says(format.KeyStatement{Retire: b.Public, Keeps: slices.Repeat([]string{b.Public}, 65)}),
		"no key at all":       a.Says(format.KeyStatement{Add: "x"}),
		"a base64 of its own": a.Says(format.KeyStatement{Add: strings.TrimSuffix(b.Public, "=")}),
	} {
		if got := (format.KeyStatements{}).Merge(format.KeyStatements{s}); len(got) > 0 {
			t.Errorf("%s: taken", name)
		}
	}
}

// A configuration stays small, whoever writes to it, and what was there first
// stays there.
func TestManyKeys(t *testing.T) {
	ps := indextest.People(t, 3)
	c := format.Config{PublicKeys: publics(ps[0]), KeyStatements: format.KeyStatements{ps[0].Adds(ps[1])}}
	var d format.Config
	for i := range 2 * format.MaxKeyStatements {
		s := ps[2].Adds(ps[2])
		s.Time = s.Time.Add(time.Duration(i) * time.Second)
		d.KeyStatements = append(d.KeyStatements, s)
		d.PublicKeys = append(d.PublicKeys, fmt.Sprintf("k%d%s", i, ps[2].Public))
	}
	c = c.Merge(d)
	if len(c.KeyStatements) != format.MaxKeyStatements || len(c.PublicKeys) != format.MaxPublicKeys {
		t.Errorf("got %d statements and %d keys", len(c.KeyStatements), len(c.PublicKeys))
	}
	if got := format.FollowKeys(publics(ps[0]), nil, c.KeyStatements).Trusted; !slices.Equal(sorted(got), publics(ps[:2]...)) {
		t.Errorf("got %v", got)
	}
}

func FuzzKeyStatements(f *testing.F) {
	a, b := indextest.NewPerson(f, "a-1"), indextest.NewPerson(f, "b-1")
	good, err := json.Marshal(format.KeyStatements{a.Adds(b), b.Retires(a, b)})
	if err != nil {
		f.Fatal(err)
	}
	other := indextest.NewPerson(f, "c-1")
	f.Add(good)
	f.Add([]byte(`[{"retire":"` + a.Public + `","keeps":["` + b.Public + `"],"time":"9999-12-31T00:00:00Z","sig":"a-1:AAAA"}]`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var ks format.KeyStatements
		if json.Valid(text) {
			if err := json.Unmarshal(text, &ks); err != nil {
				t.Fatal(err)
			}
		}
		// nobody can have signed anything with this key
		chain := format.FollowKeys([]string{other.Public}, []string{a.Public, "x"}, ks)
		if !slices.Equal(chain.Trusted, []string{other.Public}) || len(chain.Retired) > 0 || len(chain.Counted) > 0 || len(chain.Unvouched) != 2 {
			t.Fatalf("got %+v", chain)
		}
		again, err := json.Marshal(ks)
		if err != nil {
			t.Fatal(err)
		}
		var back format.KeyStatements
		if err := json.Unmarshal(again, &back); err != nil || len(back) != len(ks) {
			t.Fatalf("got %d of %d statements back: %v", len(back), len(ks), err)
		}
	})
}

// Somebody without a key of the cache has filled it with keys and statements, each
// of which adds the next key. Readers follow the chain at each change.
func BenchmarkKeysOfOutsiders(b *testing.B) {
	ps := indextest.People(b, format.MaxPublicKeys)
	var said format.KeyStatements
	for i := range ps[1:] {
		said = append(said, ps[i].Adds(ps[i+1]))
	}
	c := indextest.KeysOf(ps, said...)
	for root, p := range map[string]indextest.Person{"none of these": indextest.NewPerson(b, "ours"), "the first": ps[0]} {
		b.Run(root, func(b *testing.B) {
			for b.Loop() {
				c.Keys([]string{p.Public})
				c.FirstKeys()
			}
		})
	}
}

// The same statement in another text is still one.
func TestStatementInManyTexts(t *testing.T) {
	ps := indextest.People(t, 2)
	s := ps[0].Adds(ps[1])
	said := format.KeyStatements(nil).Merge(format.KeyStatements{s})
	later := s
	later.Time = s.Time.Add(time.Millisecond)
	loose := s
	// the last four bits say nothing
	loose.Signature = strings.NewReplacer("A==", "B==", "Q==", "R==", "g==", "h==", "w==", "x==").Replace(s.Signature)
	if loose.Signature == s.Signature {
		t.Fatal("it is the same text")
	}
	if got := said.Merge(format.KeyStatements{later, loose}); len(got) != 1 {
		t.Errorf("got %d statements", len(got))
	}
}
