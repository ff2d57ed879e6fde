package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	commandTimeout = 15 * time.Minute
	startTimeout   = 60 * time.Second
	stopTimeout    = 20 * time.Second
)

// finished is a program that has run to its end.
type finished struct {
	cost         // with that of its children
	memory int64 // its peak resident set, in bytes; 0 if unknown
	stdout []byte
}

// execute runs a program to its end.
func execute(ctx context.Context, env []string, stdin string, name string, args ...string) (finished, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(stdin), &stdout, &stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return finished{}, err
	}
	peak := watchMemory(cmd.Process.Pid)
	err := cmd.Wait()
	f := finished{cost: cost{wall: time.Since(start)}, memory: peak(), stdout: stdout.Bytes()}
	if err != nil {
		return f, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	f.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return f, nil
}

// watchMemory follows a process's peak memory until the returned function is
// called. The maximum that wait4 reports will not do: Linux counts in it what
// the parent had when it forked.
func watchMemory(pid int) func() int64 {
	stop, result := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, memory(pid, "VmHWM"))
			select {
			case <-stop:
				result <- peak
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-result
	}
}

// memory reads one of the sizes in /proc/PID/status, in bytes.
func memory(pid int, field string) int64 {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), field)
}

// kilobytes reads one of the sizes in a file of /proc, in bytes; 0 if it is not
// there.
func kilobytes(name, field string) int64 {
	text, _ := os.ReadFile(name)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// service is a program that runs until it is stopped.
type service struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer // to be read after the end only
	exited chan struct{}
}

// start starts a program. first receives the first line of its standard
// output, if it writes one.
func start(env []string, name string, args ...string) (s *service, first <-chan string, err error) {
	s = &service{cmd: exec.Command(name, args...), exited: make(chan struct{})}
	s.cmd.Env, s.cmd.Stderr = env, &s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, nil, err
	}
	line := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for n := 0; lines.Scan(); n++ {
			if n == 0 {
				line <- lines.Text()
			}
		}
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	return s, line, nil
}

func (s *service) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// stop ends it, kindly at first.
func (s *service) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
}
