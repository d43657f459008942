//! A measured run, and what its processes cost: CPU time from /proc, bytes and turns from their own presence.

use super::free_run;
use crate::broker::Broker;
use crate::{config, summary::Summary, up};
use anyhow::{Context, Result};
use futures::StreamExt;
use schemas::pipeline::Pipeline;
use schemas::{Presence, subjects};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Kernel ticks a second, as on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was counted between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    pub(crate) turns: f64,
    /// CPU seconds by stage; `nats-server` too.
    pub(crate) cpu_s: BTreeMap<String, f64>,
    /// Payload bytes taken and sent, by stage: each copy that a stage gets counts.
    pub(crate) bytes: BTreeMap<String, f64>,
    /// Largest resident set of one process, MiB, by stage.
    pub(crate) rss_mib: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Default)]
struct Look {
    turns: f64,
    cpu_s: BTreeMap<String, f64>,
    bytes: BTreeMap<String, f64>,
}

/// A run that was measured while it went on.
pub(crate) struct Measured {
    pub(crate) run: String,
    pub(crate) folder: PathBuf,
    pub(crate) pipeline: Pipeline,
    pub(crate) summary: Summary,
    pub(crate) window: Window,
}

/// Runs a pipeline against a server of its own for long enough, and counts for `seconds` after `warm_s`. The run's schedule is
/// cut to one phase of that time.
///
/// # Errors
/// The run does not start, makes no turn, or is stopped.
pub(crate) async fn measured_run(runs: &Path, name: &str, mut loaded: config::Loaded, warm_s: f64, seconds: f64) -> Result<Measured> {
    /// Starting, and the looks around the window, take some seconds too.
    const AROUND_S: f64 = 6.0;
    let phase = loaded.pipeline.schedule.first_mut().context("the pipeline has no phase to measure")?;
    phase.batches = 0;
    phase.minutes = (seconds + warm_s + AROUND_S) / 60.0;
    loaded.text = toml::to_string(&loaded.pipeline)?;
    let run = free_run(runs, name);
    let home = tempfile::tempdir()?;
    std::fs::create_dir_all(home.path().join("logs"))?;
    let broker = Broker::start(home.path()).await?;
    let options =
        up::Options { nats: Some(broker.url.clone()), run: Some(run.clone()), runs: runs.to_path_buf(), resume: false, feasibility: false };
    let (ended, window) = tokio::join!(up::up(&loaded, &options), window(&broker.url, broker.pid(), &run, warm_s, seconds));
    let (summary, window) = (ended?.context("the benchmark was stopped")?, window?);
    Ok(Measured { folder: runs.join(&run), pipeline: loaded.pipeline, run, summary, window })
}

/// Waits until turns are made, then `warm_s` more, then counts for `seconds`.
///
/// # Errors
/// No turn within two minutes, or the server is gone.
async fn window(nats: &str, server_pid: Option<u32>, run: &str, warm_s: f64, seconds: f64) -> Result<Window> {
    let client = crate::up::connect(nats).await?;
    let mut presence = client.subscribe(subjects::presence_all(run)).await?;
    let mut heard: BTreeMap<String, Presence> = BTreeMap::new();
    let first_deadline = Instant::now() + Duration::from_secs(120);
    while turns(&heard) < 1.0 {
        anyhow::ensure!(Instant::now() < first_deadline, "no turn was made within two minutes; hint: see the logs in the run's folder");
        listen(&mut presence, &mut heard, Duration::from_millis(200)).await;
    }
    listen(&mut presence, &mut heard, Duration::from_secs_f64(warm_s)).await;
    // Both looks are taken right after a presence, since the turns they count are the presence's.
    next(&mut presence, &mut heard).await?;
    let (from, before) = (Instant::now(), look(&heard, server_pid));
    listen(&mut presence, &mut heard, Duration::from_secs_f64(seconds)).await;
    next(&mut presence, &mut heard).await?;
    let (elapsed, after) = (from.elapsed().as_secs_f64(), look(&heard, server_pid));
    let since = |after: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>| {
        after.iter().map(|(stage, value)| (stage.clone(), value - before.get(stage).unwrap_or(&0.0))).collect()
    };
    let (cpu_s, bytes) = (since(&after.cpu_s, &before.cpu_s), since(&after.bytes, &before.bytes));
    let mut rss_mib: BTreeMap<String, f64> = BTreeMap::new();
    for p in heard.values() {
        let most = rss_mib.entry(p.stage.clone()).or_default();
        *most = most.max(resident_mib(p.pid));
    }
    Ok(Window { seconds: elapsed, turns: after.turns - before.turns, cpu_s, bytes, rss_mib })
}

fn turns(heard: &BTreeMap<String, Presence>) -> f64 {
    heard.values().filter_map(|p| p.gauges.get("turns_total")).sum()
}

fn look(heard: &BTreeMap<String, Presence>, server_pid: Option<u32>) -> Look {
    let mut cpu_s: BTreeMap<String, f64> = BTreeMap::new();
    let mut bytes: BTreeMap<String, f64> = BTreeMap::new();
    for p in heard.values() {
        *cpu_s.entry(p.stage.clone()).or_default() += cpu_seconds(p.pid);
        for (way, gauge) in [("received", "received_bytes"), ("sent", "sent_bytes")] {
            *bytes.entry(format!("{way}.{}", p.stage)).or_default() += p.gauges.get(gauge).unwrap_or(&0.0);
        }
    }
    if let Some(pid) = server_pid {
        cpu_s.insert("nats-server".into(), cpu_seconds(pid));
    }
    Look { turns: turns(heard), cpu_s, bytes }
}

async fn listen(presence: &mut async_nats::Subscriber, heard: &mut BTreeMap<String, Presence>, span: Duration) {
    let deadline = tokio::time::Instant::now() + span;
    while let Ok(Some(message)) = tokio::time::timeout_at(deadline, presence.next()).await {
        take(&message.payload, heard);
    }
}

/// Waits for the next presence of a stepper.
async fn next(presence: &mut async_nats::Subscriber, heard: &mut BTreeMap<String, Presence>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let message =
            tokio::time::timeout_at(deadline, presence.next()).await.context("no stepper is alive")?.context("the server is gone")?;
        if take(&message.payload, heard).as_deref() == Some("env-stepper") {
            return Ok(());
        }
    }
}

fn take(payload: &[u8], heard: &mut BTreeMap<String, Presence>) -> Option<String> {
    let presence: Presence = schemas::decode(payload).ok()?;
    let stage = presence.stage.clone();
    heard.insert(presence.id.clone(), presence);
    Some(stage)
}

/// User and system time of a process, from fields 14 and 15 of its `stat`.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Resident set in MiB.
pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_costs_something() {
        assert!(super::resident_mib(std::process::id()) > 0.5);
        let mut sum = 0u64;
        for i in 0..200_000_000u64 {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(i));
        }
        assert!(std::hint::black_box(sum) != 1 && super::cpu_seconds(std::process::id()) > 0.0);
    }
}
