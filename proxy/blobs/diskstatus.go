package blobs

import "github.com/prometheus/client_golang/prometheus"

// DiskStatus is what a Disk holds, and what it has done since the start.
type DiskStatus struct {
	Bytes    int64 `json:"bytes"`    // what is there and what is being fetched
	MaxBytes int64 `json:"maxBytes"` // the bound
	Blobs    int   `json:"blobs"`    // complete ones
	Hits     int64 `json:"hits"`     // reads of what was there
	Shared   int64 `json:"shared"`   // reads of what was being fetched for another
	Misses   int64 `json:"misses"`   // fetches that were begun
	Bypassed int64 `json:"bypassed"` // reads that went to the registry by themselves
	Evicted  int64 `json:"evicted"`  // files that made room
	Damaged  int64 `json:"damaged"`  // files that were not what they had been
	Failures int64 `json:"failures"` // of writing
}

// Status returns the state at the moment.
func (d *Disk) Status() DiskStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.counts
	st.Bytes, st.MaxBytes, st.Blobs = d.held.Size()+d.busy(), d.max, d.held.Len()
	return st
}

func (d *Disk) bypassed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Bypassed++
}

var _ prometheus.Collector = (*Disk)(nil)

func diskDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nixoci_proxy_nar_cache_"+name, help, labels, nil)
}

var (
	descBytes    = diskDesc("bytes", "Bytes on disk.")
	descMax      = diskDesc("max_bytes", "Bytes that may be on disk.")
	descBlobs    = diskDesc("blobs", "Blobs on disk.")
	descReads    = diskDesc("reads_total", "Reads of blobs: from the disk (hit), beside another's fetch (shared), with a fetch of their own (miss), past the disk (bypass).", "result")
	descEvicted  = diskDesc("evictions_total", "Blobs that made room for others.")
	descDamaged  = diskDesc("damaged_total", "Blobs that were damaged on disk.")
	descFailures = diskDesc("write_failures_total", "Failures to write to the disk.")
)

// Describe is for Prometheus.
func (d *Disk) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{descBytes, descMax, descBlobs, descReads, descEvicted, descDamaged, descFailures} {
		ch <- desc
	}
}

// Collect is for Prometheus.
func (d *Disk) Collect(ch chan<- prometheus.Metric) {
	st := d.Status()
	for _, m := range []struct {
		desc  *prometheus.Desc
		kind  prometheus.ValueType
		value int64
		label []string
	}{
		{descBytes, prometheus.GaugeValue, st.Bytes, nil},
		{descMax, prometheus.GaugeValue, st.MaxBytes, nil},
		{descBlobs, prometheus.GaugeValue, int64(st.Blobs), nil},
		{descReads, prometheus.CounterValue, st.Hits, []string{"hit"}},
		{descReads, prometheus.CounterValue, st.Shared, []string{"shared"}},
		{descReads, prometheus.CounterValue, st.Misses, []string{"miss"}},
		{descReads, prometheus.CounterValue, st.Bypassed, []string{"bypass"}},
		{descEvicted, prometheus.CounterValue, st.Evicted, nil},
		{descDamaged, prometheus.CounterValue, st.Damaged, nil},
		{descFailures, prometheus.CounterValue, st.Failures, nil},
	} {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.value), m.label...)
	}
}
