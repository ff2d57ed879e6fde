package httpd

import (
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifyTimeout bounds a message to the supervisor.
const notifyTimeout = 5 * time.Second

// Supervisor is a service manager that wants to know how the service is, as
// systemd does (sd_notify(3)). Nil is one that does not.
type Supervisor struct {
	socket   string
	watchdog time.Duration
}

// NewSupervisor returns who started this process, as NOTIFY_SOCKET,
// WATCHDOG_USEC and WATCHDOG_PID tell; nil if nobody wants to know.
func NewSupervisor(getenv func(string) string) *Supervisor {
	socket := getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		return nil
	}
	s := &Supervisor{socket: socket}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 48)
	pid := getenv("WATCHDOG_PID")
	if err == nil && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		s.watchdog = time.Duration(usec) * time.Microsecond
	}
	return s
}

// interval is the time between signs of life; 0 if none is wanted.
func (s *Supervisor) interval() time.Duration {
	if s == nil {
		return 0
	}
	return s.watchdog / 2
}

func (s *Supervisor) notify(lines ...string) error {
	if s == nil {
		return nil
	}
	conn, err := net.DialTimeout("unixgram", s.socket, notifyTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(notifyTimeout))
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return err
}

// reloading tells that a reload begins now, on systemd's clock.
func reloading() []string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return []string{"RELOADING=1"}
	}
	return []string{"RELOADING=1", "MONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)}
}
