package push

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/org/nixoci-action/internal/pieces"
)

// maxDict is the largest dictionary of xz that is decoded, in bytes: that of
// `xz -9`. The decoder reserves what a block's header asks for, up to 4 GiB.
const maxDict = 64 << 20

var errXZ = errors.New("it is no xz stream of one LZMA2 filter")

// checkXZ walks through the blocks of an xz stream, without decoding them, to
// see how much memory that would take (.xz file format 1.2.1, section 3; LZMA2
// chunks as in XZ for Java's LZMA2InputStream).
func checkXZ(r io.Reader) error {
	x := &xzWalker{r: bufio.NewReaderSize(r, pieces.Size)}
	head := x.bytes(12)
	if x.err != nil {
		return errXZ
	}
	check := [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[head[7]&0xf]
	for x.block(check) {
	}
	return x.err
}

type xzWalker struct {
	r   *bufio.Reader
	n   int64 // bytes walked over
	err error
}

// bytes returns the next n bytes, at most 1,024; zeros after an error.
func (x *xzWalker) bytes(n int) []byte {
	b := make([]byte, n)
	if x.err == nil {
		if _, err := io.ReadFull(x.r, b); err != nil {
			x.err = errXZ
		}
		x.n += int64(n)
	}
	return b
}

func (x *xzWalker) skip(n int) {
	if x.err == nil {
		if _, err := x.r.Discard(n); err != nil {
			x.err = errXZ
		}
		x.n += int64(n)
	}
}

// block walks over a block; false if there is none.
func (x *xzWalker) block(check int) bool {
	size := x.bytes(1)[0]
	if x.err != nil || size == 0 { // the index follows
		return false
	}
	dict, err := dictSize(x.bytes(int(size)*4 + 3))
	switch {
	case x.err != nil:
		return false
	case err != nil:
		x.err = err
		return false
	case dict > maxDict:
		x.err = fmt.Errorf("its dictionary of %d bytes is larger than %d", dict, maxDict)
		return false
	}
	start := x.n
	for x.chunk() {
	}
	x.skip(int(-(x.n-start)&3) + check)
	return x.err == nil
}

// chunk walks over a chunk of LZMA2; false if it was the last.
func (x *xzWalker) chunk() bool {
	control := x.bytes(1)[0]
	switch {
	case x.err != nil || control == 0:
		return false
	case control < 3:
		b := x.bytes(2)
		x.skip(int(b[0])<<8 + int(b[1]) + 1)
	case control < 0x80:
		x.err = errXZ
	default:
		b := x.bytes(4)
		if control >= 0xc0 { // new properties
			x.skip(1)
		}
		x.skip(int(b[2])<<8 + int(b[3]) + 1)
	}
	return x.err == nil
}

// dictSize reads a block's header, after its size.
func dictSize(header []byte) (int64, error) {
	flags, rest := header[0], header[1:len(header)-4]
	if flags&0x3f != 0 {
		return 0, errXZ
	}
	varint := func() (v uint64) {
		for i := 0; len(rest) > 0 && i < 9; i++ {
			b := rest[0]
			rest = rest[1:]
			v |= uint64(b&0x7f) << (7 * i)
			if b < 0x80 {
				break
			}
		}
		return v
	}
	for _, present := range []byte{0x40, 0x80} {
		if flags&present != 0 {
			varint()
		}
	}
	if id, n := varint(), varint(); id != 0x21 || n != 1 || len(rest) == 0 || rest[0] > 40 {
		return 0, errXZ
	}
	if rest[0] == 40 {
		return 1<<32 - 1, nil
	}
	return int64(2|rest[0]&1) << (rest[0]/2 + 11), nil
}
