//! What a stage counts, and how Prometheus reads it.

use crate::stage::Report;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Upper bounds of the step histogram's buckets, seconds.
const BOUNDS: [f64; 12] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 1e-1, 1.0];

/// Counted by the driver without a lock, and copied out a few times a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) rejected: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) steps: u64,
    pub(crate) step_seconds: f64,
    buckets: [u64; BOUNDS.len() + 1],
}

impl Counts {
    pub(crate) fn stepped(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.steps += 1;
        self.step_seconds += seconds;
        self.buckets[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
    }
}

/// What the driver last said of itself; read by presence, micro-service and Prometheus.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) report: Report,
    pub(crate) counts: Counts,
}

pub(crate) type Shared = Arc<Mutex<Snapshot>>;

/// A copy of the last snapshot; the lock is held for the copy alone.
pub(crate) fn snapshot(shared: &Shared) -> Snapshot {
    shared.lock().map(|s| s.clone()).unwrap_or_default()
}

/// Encodes the newest snapshot when Prometheus asks.
#[derive(Debug)]
pub(crate) struct Gatherer {
    pub(crate) shared: Shared,
    pub(crate) stage: String,
    pub(crate) id: String,
    pub(crate) run: String,
}

impl Gatherer {
    fn one(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        metric: &impl EncodeMetric,
    ) -> std::fmt::Result {
        let labels = [("stage", self.stage.as_str()), ("id", self.id.as_str()), ("run", self.run.as_str())];
        let mut encoder = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
        metric.encode(encoder.encode_family(&labels)?)
    }
}

impl Collector for Gatherer {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let Snapshot { report, counts } = snapshot(&self.shared);
        let counters = [
            ("errand_received", "Messages taken", counts.received),
            ("errand_sent", "Messages sent", counts.sent),
            ("errand_rejected", "Messages that could not be handled", counts.rejected),
            ("errand_errors", "Failures of the broker's that were met", counts.errors),
            ("errand_dropped", "Times that messages came faster than they were taken", counts.dropped),
            ("errand_received_bytes", "Bytes of payload taken", counts.bytes_in),
            ("errand_sent_bytes", "Bytes of payload sent", counts.bytes_out),
            ("errand_done", "Items finished", report.done),
        ];
        for (name, help, value) in counters {
            self.one(&mut encoder, name, help, None, &ConstCounter::new(value))?;
        }
        self.one(&mut encoder, "errand_waiting", "Items in hand or queued", None, &ConstGauge::new(report.waiting as f64))?;
        self.one(&mut encoder, "errand_free", "Items it would take now", None, &ConstGauge::new(report.free as f64))?;
        for (name, value) in &report.gauges {
            self.one(&mut encoder, &format!("errand_{name}"), "The stage's own", None, &ConstGauge::new(*value))?;
        }
        self.one(&mut encoder, "errand_step", "Time of one step of the logic", Some(&Unit::Seconds), &StepTimes(&counts))
    }
}

/// The step histogram as Prometheus wants it.
struct StepTimes<'a>(&'a Counts);

impl EncodeMetric for StepTimes<'_> {
    fn encode(&self, mut encoder: MetricEncoder) -> std::fmt::Result {
        // The encoder writes the bound `f64::MAX` as infinity.
        let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().chain([f64::MAX]).zip(self.0.buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.step_seconds, self.0.steps, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
