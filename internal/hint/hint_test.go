package hint

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
)

func TestHint(t *testing.T) {
	inner := Wrap(io.EOF, "inner")
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"none", io.EOF, ""},
		{"plain", inner, "inner"},
		{"below", fmt.Errorf("reading x: %w", inner), "inner"},
		{"outermost wins", Wrap(fmt.Errorf("y: %w", inner), "outer"), "outer"},
		{"an empty one hides nothing", Wrap(inner, ""), "inner"},
		{"joined", errors.Join(io.EOF, inner), "inner"},
	}
	for _, tt := range tests {
		if got := Of(tt.err); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	all := Wrap(errors.Join(io.EOF, Wrap(io.EOF, "a"), inner, inner), "outer")
	if got := All(all); !slices.Equal(got, []string{"outer", "a", "inner"}) || len(All(nil))+len(All(io.EOF)) > 0 {
		t.Errorf("got all hints %q", got)
	}
	if err := Wrap(nil, "x"); err != nil {
		t.Errorf("nil became %v", err)
	}
	if inner.Error() != "EOF" || !errors.Is(inner, io.EOF) {
		t.Errorf("the error became %v", inner)
	}
}
