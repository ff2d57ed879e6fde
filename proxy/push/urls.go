package push

const (
	pathCacheInfo      = "/nix-cache-info"
	prefixNAR          = "/nar/"
	suffixNarinfo      = ".narinfo"
	suffixListing      = ".ls"
	suffixDebug        = ".debug"
	prefixLog          = "/log/"
	prefixRealisations = "/realisations/"
	prefixBuildTrace   = "/build-trace-v2/"
	prefixDebugInfo    = "/debuginfo/"
)
