// Package collect removes from a cache what nobody wants any more: it judges
// the publications, plans what stays, writes the segments that replace others,
// and deletes what was replaced long enough ago. It also tells, without a
// collection, why each path is kept and how much publications take.
//
// It works over a Snapshot of package index and a Writer, beside any number of
// other writers.
package collect
