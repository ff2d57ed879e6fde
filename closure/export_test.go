package closure

import "time"

var (
	Backoff      = backoff
	RetryAfter   = retryAfter
	NewTransport = newTransport
	ParseHits    = parseHits
	LoadHits     = loadHits
)

const (
	MaxBackoff    = maxBackoff
	MaxRetryAfter = maxRetryAfter
	MaxHits       = maxHits
	HitsMaxAge    = hitsMaxAge
)

type Hits = hits

func (h *hits) File() string                       { return h.file }
func (h *hits) Len() int                           { return len(h.seen) }
func (h *hits) Has(hashPart string) bool           { return h.has(hashPart) }
func (h *hits) Add(hashPart string, now time.Time) { h.add(hashPart, now) }
func (h *hits) Save(now time.Time) error           { return h.save(now) }
