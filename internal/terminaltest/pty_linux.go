package terminaltest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Open makes a terminal of the system, with a screen that shows what is printed
// to it. It is closed when the test ends.
func Open(t testing.TB, columns, rows int) (terminal *os.File, screen *Screen, resize func(columns, rows int)) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen = New(columns, rows)
	resize = func(columns, rows int) {
		t.Helper()
		screen.Resize(columns, rows)
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}); err != nil {
			t.Fatal(err)
		}
	}
	resize(columns, rows)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 64<<10)
		for {
			n, err := master.Read(buf)
			_, _ = screen.Write(buf[:n])
			if err != nil {
				return // EIO: nobody has the terminal open any more
			}
		}
	}()
	t.Cleanup(func() {
		terminal.Close()
		<-read
		master.Close()
	})
	return terminal, screen, resize
}
