package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	quietShare = 0.1 // of all cores, used by others
	quietFor   = time.Second
)

// waitQuiet waits until the machine has almost nothing to do, for as long as
// -quiet allows. A comparison is worth little while others take turns with
// what is measured.
func (b *bench) waitQuiet(ctx context.Context) error {
	for deadline := time.Now().Add(b.quiet); time.Now().Before(deadline); {
		busy, total := processorTicks()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietFor):
		}
		busy2, total2 := processorTicks()
		if float64(busy2-busy) <= quietShare*float64(total2-total) {
			return nil
		}
	}
	return ctx.Err()
}

// processorTicks returns how long the cores have worked, and have been there,
// since the machine started; 0 where /proc does not tell.
func processorTicks() (busy, total int64) {
	stat, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil || i > 8 { // "cpu", and guests, which user includes
			continue
		}
		total += n
		if i != 4 && i != 5 { // idle, waiting for a disk
			busy += n
		}
	}
	return busy, total
}
