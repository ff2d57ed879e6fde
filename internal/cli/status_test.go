package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/org/nixoci-action/internal/hint"
)

func TestReport(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	failure := hint.Wrap(errors.New("registry refused"), "is it up?")
	tests := map[string]struct {
		ctx    context.Context
		err    error
		status int
		want   string
	}{
		"done":              {t.Context(), nil, ExitDone, ""},
		"done when stopped": {stopped, nil, ExitDone, ""},
		"failed":            {t.Context(), fmt.Errorf("publishing: %w", failure), ExitFailed, "error: publishing: registry refused\nhint: is it up?\n"},
		"partly":            {t.Context(), fmt.Errorf("x: %w", WithStatus(failure, ExitPartly)), ExitPartly, "error: x: registry refused\nhint: is it up?\n"},
		"stopped":           {stopped, WithStatus(failure, ExitPartly), ExitInterrupted, "error: interrupted\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if got := Report(tt.ctx, tt.err, env(), io.Discard, &stderr); got != tt.status {
				t.Errorf("got status %d, want %d", got, tt.status)
			}
			if stderr.String() != tt.want {
				t.Errorf("got %q, want %q", stderr.String(), tt.want)
			}
		})
	}
	if WithStatus(nil, ExitPartly) != nil || testCommand.Flags(env()).Usage(nil) != nil {
		t.Error("got an error from nil")
	}
}
