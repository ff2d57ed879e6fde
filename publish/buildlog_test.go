package publish

import "testing"

func TestErrorAbout(t *testing.T) {
	t.Parallel()
	const a, b = "/nix/store/00000000000000000000000000000000-a.drv", "/nix/store/00000000000000000000000000000000-b.drv"
	for _, tc := range []struct{ name, message, drv, want string }{
		{"2.8", "builder for '" + b + "' failed with exit code 2;\n       last 1 log lines:\n       > x\nerror: builder for '" + a + "' failed with exit code 1\nerror: 1 dependencies of derivation '" + b + "' failed to build",
			a, "builder for '" + a + "' failed with exit code 1"},
		{"2.34", "Cannot build '" + a + "'.\n       Reason: builder failed with exit code 3.\nerror: Cannot build '" + b + "'.\n       Reason: 1 dependency failed.",
			a, "Cannot build '" + a + "'.\nReason: builder failed with exit code 3."},
		{"about all", "home directory '/homeless-shelter' exists", a, "home directory '/homeless-shelter' exists"},
		{"not named", "builder for '" + b + "' failed", a, ""},
		{"between others", "1 dependencies of derivation '" + b + "' failed\nbuilding '" + a + "'...\nerror: builder for '" + a + "' failed\nbuilding '" + b + "'...\nerror: build of '" + a + "', '" + b + "' failed",
			a, "builder for '" + a + "' failed"},
		{"long", "1\n 2\n 3\n 4\n 5\n 6\n 7", a, "1\n2\n3\n4\n5\n6"},
	} {
		if got := errorAbout(tc.message, tc.drv); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
