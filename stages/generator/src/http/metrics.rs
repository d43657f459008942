//! `/metrics` under vLLM's names, in Prometheus' text format.

use super::App;
use axum::extract::State;
use axum::response::IntoResponse;
use policy::CacheStats;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// Upper bounds of the buckets of times, seconds.
const BOUNDS: [f64; 14] = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn take(&mut self, seconds: f64) {
        BOUNDS.iter().zip(&mut self.buckets).filter(|(bound, _)| seconds <= **bound).for_each(|(_, bucket)| *bucket += 1);
        self.count += 1;
        self.sum += seconds;
    }
}

#[derive(Clone, Debug, Default)]
struct Counts {
    prompt: u64,
    generated: u64,
    finished: BTreeMap<&'static str, u64>,
    stats: CacheStats,
    running: usize,
    waiting: usize,
    kv_use: f64,
    computing_s: f64,
    first_token: Histogram,
    next_token: Histogram,
    whole: Histogram,
    weights: Histogram,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

impl Metrics {
    fn with<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        // Counts are whole even where another thread panicked with the lock.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn prompt(&self, tokens: usize) {
        self.with(|c| c.prompt += tokens as u64);
    }

    pub(crate) fn generated(&self, tokens: usize) {
        self.with(|c| c.generated += tokens as u64);
    }

    pub(crate) fn first_token(&self, seconds: f64) {
        self.with(|c| c.first_token.take(seconds));
    }

    pub(crate) fn next_token(&self, seconds: f64) {
        self.with(|c| c.next_token.take(seconds));
    }

    pub(crate) fn weights(&self, seconds: f64) {
        self.with(|c| c.weights.take(seconds));
    }

    pub(crate) fn step(&self, stats: CacheStats, (running, waiting, kv_use): (usize, usize, f64), seconds: f64) {
        self.with(|c| {
            (c.stats, c.running, c.waiting, c.kv_use) = (stats, running, waiting, kv_use);
            c.computing_s += seconds;
        });
    }

    /// A reply ended; with its time, prompt and length where it ran to an end.
    pub(crate) fn finished(&self, reason: &'static str, whole: Option<(f64, usize, usize)>) {
        self.with(|c| {
            *c.finished.entry(reason).or_default() += 1;
            if let Some((seconds, _, _)) = whole {
                c.whole.take(seconds);
            }
        });
    }

    fn text(&self, model: &str) -> String {
        let counts = self.with(|c| c.clone());
        let label = format!("model_name=\"{}\",engine=\"0\"", model.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = String::new();
        let mut number = |name: &str, kind: &str, value: f64| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            // Writing into a string cannot fail.
            let _ = writeln!(out, "# TYPE vllm:{name} {kind}\nvllm:{name}{suffix}{{{label}}} {value}");
        };
        number("num_requests_running", "gauge", counts.running as f64);
        number("num_requests_waiting", "gauge", counts.waiting as f64);
        number("kv_cache_usage_perc", "gauge", counts.kv_use);
        number("prefix_cache_queries", "counter", counts.stats.queried as f64);
        number("prefix_cache_hits", "counter", counts.stats.hits as f64);
        number("num_preemptions", "counter", counts.stats.preemptions as f64);
        number("prompt_tokens", "counter", counts.prompt as f64);
        number("generation_tokens", "counter", counts.generated as f64);
        number("computing_seconds", "counter", counts.computing_s);
        let _ = writeln!(out, "# TYPE vllm:request_success counter");
        for reason in ["stop", "length", "abort", "error"] {
            let count = counts.finished.get(reason).copied().unwrap_or(0);
            let _ = writeln!(out, "vllm:request_success_total{{{label},finished_reason=\"{reason}\"}} {count}");
        }
        for (name, histogram) in [
            ("time_to_first_token_seconds", &counts.first_token),
            ("inter_token_latency_seconds", &counts.next_token),
            ("e2e_request_latency_seconds", &counts.whole),
            ("rl_weight_update_operation_duration_seconds", &counts.weights),
        ] {
            let _ = writeln!(out, "# TYPE vllm:{name} histogram");
            for (bound, count) in BOUNDS.iter().zip(&histogram.buckets) {
                let _ = writeln!(out, "vllm:{name}_bucket{{{label},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "vllm:{name}_bucket{{{label},le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(out, "vllm:{name}_count{{{label}}} {}\nvllm:{name}_sum{{{label}}} {}", histogram.count, histogram.sum);
        }
        out
    }
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], app.core.metrics.text(&app.names[0]))
}
