//go:build race

package upload

func init() { raceEnabled = true }
