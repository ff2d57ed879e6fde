package cli

import "testing"

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "off": 0, "1": 1, "17B": 17, "20GB": 20e9, "20gb": 20e9, "20 G": 20e9, "1.5TiB": 3 << 39, "512MiB": 512 << 20, "2k": 2000, ".5MB": 500_000,
	} {
		got, err := ParseSize(in)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", in, got, err, want)
		}
		if again, err := ParseSize(FormatSize(got)); err != nil || again != got {
			t.Errorf("%d is written %q and read as %d, %v", got, FormatSize(got), again, err)
		}
	}
	for _, in := range []string{"", "GB", "-1", "1e9", "0x10", "1_000", "inf", "nan", "20XB", "1GB1", "99999999TB"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
}
