// Package collect removes from a cache what nobody wants any more. It judges
// the publications, and plans what stays. Then it writes the segments that
// replace others, and deletes what was replaced long enough ago. Without a
// collection it tells why each path is kept, and how much publications take.
//
// It works with a Snapshot and a Writer of package index, beside any number of
// other writers.
package collect
