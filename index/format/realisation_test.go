package format_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/org/nixoci-action/index/format"
)

// A realisation that Nix writes is read and served as Nix does, in both forms.
func TestRealisationFormats(t *testing.T) {
	const (
		out = "4cggaifbp1fc8zhsdrk9pzi45ifqk6i6-ca-top"
		id  = "sha256:8ba7b5dfbe204d0fc46cb255e0293afdc9ef63db7912b6035e67d63e17d53c8f!out"
		drv = "xmw07xh4mqksjwr80326z007d3v3sh7p-ca-top.drv"
	)
	sig := strings.Repeat("A", 86) + "=="
	old := `{"dependentRealisations":{},"id":"` + id + `","outPath":"` + out + `","signatures":["k-1:` + sig + `"]}`
	r, path, err := format.ParseRealisation(doi(id+".doi"), []byte(old))
	if err != nil || path != out || r.JSON(path) != old {
		t.Errorf("got %+v of %q, %v: %s", r, path, err, r.JSON(path))
	}
	if want := strings.Replace(old, `,"signatures":["k-1:`+sig+`"]`, "", 1); r.Fingerprint(out) != want {
		t.Errorf("got the fingerprint %s, want %s", r.Fingerprint(out), want)
	}
	// what it depends on is left out, and the signature covers that
	depends := strings.Replace(old, `{}`, `{"`+id+`":"`+out+`"}`, 1)
	if r, _, err := format.ParseRealisation(doi(id+".doi"), []byte(depends)); err != nil || r.Signatures != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	if r, _, err := format.ParseRealisation(doi(id+".doi"), []byte(strings.Replace(old, "k-1:", "", 1))); err != nil || len(r.Signatures) != 0 {
		t.Errorf("a signature that nobody can verify: got %+v, %v, want it left out", r, err)
	}
	unsigned := format.Realisation{ID: id}
	if got := unsigned.JSON(out); !strings.HasSuffix(got, `,"signatures":[]}`) {
		t.Errorf("unsigned: got %s", got)
	}

	trace := `{"outPath":"` + out + `","signatures":[{"keyName":"k-1","sig":"` + sig + `"}]}`
	r, path, err = format.ParseRealisation(doi(drv+"/out.doi"), []byte(trace))
	if err != nil || path != out || r.JSON(path) != trace || !slices.Equal(r.Signatures, []string{"k-1:" + sig}) {
		t.Errorf("got %+v of %q, %v: %s", r, path, err, r.JSON(path))
	}
	if want := `{"key":{"drvPath":"` + drv + `","outputName":"out"},"value":{"outPath":"` + out + `"}}`; r.Fingerprint(out) != want {
		t.Errorf("got the fingerprint %s, want %s", r.Fingerprint(out), want)
	}

	for _, bad := range [][2]string{
		{id, old}, {strings.Replace(id, "!out", "!dev", 1) + ".doi", old}, {"x.doi", old}, {id + ".doi", "{}"}, {id + ".doi", "[]"}, {id + ".doi", ""},
		{id + ".doi", strings.Replace(old, out, "../"+out, 1)},
		{drv + "/../out.doi", trace}, {drv + "/.doi", trace}, {out + "/out.doi", trace}, {"/out.doi", trace},
	} {
		if r, path, err := format.ParseRealisation(doi(bad[0]), []byte(bad[1])); err == nil {
			t.Errorf("%q: got %+v of %q", bad, r, path)
		}
	}
}
