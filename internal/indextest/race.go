//go:build race

package indextest

func init() { RaceEnabled = true }
