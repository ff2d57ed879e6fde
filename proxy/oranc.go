package proxy

import "github.com/org/nixoci-action/index"

// noticeOranc says once that the repository has paths that only oranc knows of.
func (s *Server) noticeOranc(snap *index.Snapshot) {
	if paths, present := snap.Oranc(); paths > 0 && present == 0 && s.orancTold.CompareAndSwap(false, true) {
		s.log.Warn("what oranc has stored in the repository is not served; publish --import-oranc makes it part of the cache, without sending it again", "paths", paths)
	}
}
