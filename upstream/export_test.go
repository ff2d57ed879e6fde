package upstream

var (
	Backoff    = backoff
	RetryAfter = retryAfter
	ParseHits  = parseHits
)

const (
	MaxBackoff    = maxBackoff
	MaxRetryAfter = maxRetryAfter
	MaxHits       = maxHits
	HitsMaxAge    = hitsMaxAge
)

func (h *Hits) File() string { return h.file }
func (h *Hits) Len() int     { return len(h.seen) }
