package httpd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

// firstFD is the descriptor of the first socket that systemd passes.
const firstFD = 3

// CheckAddress reports what is wrong with an address to listen on: HOST:PORT,
// with the port as a number.
func CheckAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return fmt.Errorf("%q is no address with a port", addr)
	}
	return nil
}

// Listen opens TCP sockets on all addresses, or none of them.
func Listen(addrs []string) ([]net.Listener, error) {
	var ls []net.Listener
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			if op := (*net.OpError)(nil); errors.As(err, &op) {
				err = op.Err // the rest says the address again
			}
			return nil, errors.Join(fmt.Errorf("listening on %s: %w", addr, err), Close(ls))
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// Close closes listeners that Serve has not got.
func Close(ls []net.Listener) error {
	var errs []error
	for _, l := range ls {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Inherited returns the sockets that systemd has opened for this process, TCP
// or Unix, as LISTEN_PID and LISTEN_FDS tell (sd_listen_fds(3)); there may be
// none. It takes them over, so it is called once.
func Inherited(getenv func(string) string) ([]net.Listener, error) {
	if pid, err := strconv.Atoi(getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil, nil // of a parent, perhaps
	}
	n, err := strconv.ParseUint(getenv("LISTEN_FDS"), 10, 8)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS=%q is no number of sockets", getenv("LISTEN_FDS"))
	}
	var ls []net.Listener
	for fd := firstFD; fd < firstFD+int(n); fd++ {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
		l, err := net.FileListener(f) // a duplicate
		f.Close()
		if err == nil {
			err = listens(l)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the service manager passed a socket, number %d, that takes no connections (ListenStream= and Accept=no make one): %w", fd-firstFD+1, err), Close(ls))
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// listens tells a socket for connections from a connection, which a socket
// unit with Accept=yes passes.
func listens(l net.Listener) error {
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	accepts, optErr := 0, error(nil)
	if err := raw.Control(func(fd uintptr) {
		accepts, optErr = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	}); err != nil {
		return err
	}
	if optErr == nil && accepts == 0 {
		optErr = errors.New("it is a connection")
	}
	return optErr
}
