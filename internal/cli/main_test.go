package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be a command of its own, for TestSignals.
func TestMain(m *testing.M) {
	switch os.Getenv("CLI_TEST_COMMAND") {
	case "obeys":
		Main(func(ctx context.Context, _ []string, getenv func(string) string, _ io.Reader, stdout, stderr io.Writer) int {
			fmt.Fprintln(stdout, "ready")
			<-ctx.Done()
			return Report(ctx, ctx.Err(), getenv, stdout, stderr)
		})
	case "hangs":
		Main(func(ctx context.Context, _ []string, _ func(string) string, _ io.Reader, stdout, _ io.Writer) int {
			fmt.Fprintln(stdout, "ready")
			<-ctx.Done()
			time.Sleep(time.Minute)
			return ExitDone
		})
	}
	os.Exit(m.Run())
}

func TestSignals(t *testing.T) {
	start := func(t *testing.T, mode string) (*exec.Cmd, *bufio.Reader) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), "CLI_TEST_COMMAND="+mode)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		return cmd, bufio.NewReader(stderr)
	}

	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("first "+sig.String(), func(t *testing.T) {
			cmd, stderr := start(t, "obeys")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, stderr); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != ExitInterrupted {
				t.Errorf("got %v, want status %d", err, ExitInterrupted)
			}
		})
		t.Run("second "+sig.String(), func(t *testing.T) {
			cmd, stderr := start(t, "hangs")
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if line, err := stderr.ReadString('\n'); line != "stopping; interrupt again to stop at once\n" {
				t.Fatalf("got %q, %v", line, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != sig {
				t.Errorf("got %v, want death by %v", err, sig)
			}
		})
	}
}
