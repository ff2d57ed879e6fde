package nix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// stopDelay is how long an interrupted Nix may take to stop its builds.
const stopDelay = 10 * time.Second

// argsSize bounds what one command line holds, in bytes. Linux allows 2 MiB
// and macOS 1 MiB, environment included.
const argsSize = 512 << 10

type command struct {
	program string // "nix" or "nix-store"
	args    []string
	dir     string // to run in; "" for the current one
	stdin   io.Reader
	bare    bool             // without the client's own arguments
	quiet   bool             // not shown in the live log
	events  func(BuildEvent) // for a log in the format internal-json
	traces  *traceLog        // for what the expression says
	started func(Process)    // told of the process, or nil
	// delay is how long the process may take to stop; 0 for the client's
	delay time.Duration
}

// String is the part of a command line that tells what it does.
func (c command) String() string {
	words := []string{c.program}
	for _, a := range c.args {
		if c.program == "nix" && strings.HasPrefix(a, "-") || len(words) == 3 {
			break
		}
		words = append(words, a)
		if c.program == "nix-store" {
			break
		}
	}
	return strings.Join(words, " ")
}

// CommandError is a Nix command that did not succeed.
type CommandError struct {
	// Command is its name, for example "nix eval".
	Command string
	// Exit is the exit status, or -1 when a signal ended it.
	Exit int
	// Message is the end of what Nix wrote to its log, from its error on.
	Message string
	// Derivations are those that Nix's error messages name, in their order: of
	// builds first those that failed, then those that need them. At most 500.
	Derivations []string
	// Err is how the process ended.
	Err error
}

func (e *CommandError) Error() string {
	switch {
	case e.Message == "":
		return fmt.Sprintf("running %s: %v", e.Command, e.Err)
	case e.Exit > 0: // it says itself what is wrong
		return fmt.Sprintf("running %s: %s", e.Command, e.Message)
	}
	return fmt.Sprintf("running %s: %v: %s", e.Command, e.Err, e.Message)
}

func (e *CommandError) Unwrap() error { return e.Err }

// run runs a command and gives its standard output to read, if that is not
// nil. The output is whole only if run returns nil. Cancelling the context
// interrupts Nix and all of its process group, waits for at most the command's
// delay, then kills; the error is then the context's.
func (c *Client) run(ctx context.Context, cmd command, read func(io.Reader) error) error {
	file, err := c.program(cmd.program)
	if err != nil {
		return err
	}
	args := cmd.args
	if !cmd.bare {
		args = append(args[:len(args):len(args)], c.args...)
	}
	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := exec.CommandContext(stop, file, args...)
	p.Env, p.Dir = c.env, cmd.dir
	if cmd.dir != "" { // as a shell would say
		p.Env = append(slices.Clone(c.env), "PWD="+cmd.dir)
	}
	p.Stdin = cmd.stdin
	log := &tail{}
	var events *eventLog
	p.Stderr = log
	var shown io.Writer = live{stop, c.stderr}
	if cmd.quiet {
		shown = io.Discard
	}
	p.Stderr = io.MultiWriter(log, shown)
	if cmd.events != nil {
		events = &eventLog{tell: cmd.events, text: shown, errors: log}
		p.Stderr = live{stop, events}
	}
	if cmd.traces != nil {
		cmd.traces.rest = p.Stderr
		p.Stderr = cmd.traces
	}
	delay := cmp.Or(cmd.delay, c.stopDelay)
	// A group of its own, so that a terminal's Ctrl-C reaches Nix through us,
	// once, and so that Git and ssh below it stop as well.
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.Cancel = func() error { return syscall.Kill(-p.Process.Pid, syscall.SIGINT) }
	p.WaitDelay = delay
	out, err := p.StdoutPipe()
	if err != nil {
		return fmt.Errorf("running %s: %w", cmd, err)
	}
	start := time.Now()
	if err := p.Start(); err != nil {
		return fmt.Errorf("running %s: %w", cmd, err)
	}
	if cmd.started != nil {
		cmd.started(Process{p.Process.Pid})
	}
	// The pipe would keep a reader waiting for whoever inherited it: close it
	// when the time to stop is over.
	closer := context.AfterFunc(stop, func() { time.AfterFunc(delay, func() { _ = out.Close() }) })
	defer closer()

	src := &eofReader{r: out}
	var readErr error
	if read != nil {
		if readErr = read(src); readErr != nil && !src.eof {
			cancel(errStopped)
		}
	}
	_, _ = io.Copy(io.Discard, src) // Wait may be called only after the last read
	err = p.Wait()
	if events != nil {
		events.close()
	}
	if cmd.traces != nil {
		cmd.traces.close()
	}
	if stop.Err() != nil {
		_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL) // what is left of the group
	}
	c.log.Debug("ran", "command", cmd.String(), "took", time.Since(start).Round(time.Millisecond), "error", err)

	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("running %s: %w", cmd, context.Cause(ctx))
	case errors.Is(context.Cause(stop), errStopped):
		return readErr
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return &CommandError{Command: cmd.String(), Exit: p.ProcessState.ExitCode(), Message: log.message(), Derivations: log.failed, Err: err}
	}
	return readErr
}

// live is the log of a command that has not been told to stop. What Nix says of
// that, "interrupted by the user", would be wrong: we have told it.
type live struct {
	stop context.Context
	w    io.Writer
}

func (l live) Write(p []byte) (int, error) {
	if l.stop.Err() != nil {
		return len(p), nil
	}
	return l.w.Write(p)
}

// eofReader remembers having seen the end: an error of a reader that saw it is
// about output that was cut short, and the process knows better why.
type eofReader struct {
	r   io.Reader
	eof bool
}

func (e *eofReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.eof = e.eof || err != nil
	return n, err
}

// batches splits args so that each part fits a command line.
func batches(args []string) [][]string {
	var out [][]string
	from, size := 0, 0
	for i, a := range args {
		n := len(a) + 1 + 8 // its terminator and its pointer
		if size+n > argsSize && i > from {
			out = append(out, args[from:i])
			from, size = i, 0
		}
		size += n
	}
	if from < len(args) {
		out = append(out, args[from:])
	}
	return out
}
