//! CPU time a message costs the driver: a ring of stages in this process, 64 messages going round.
//!
//! `cargo run --release -p kit --example hop_cost -- [BYTES] [STAGES] [SECONDS]` starts its own `nats-server` and prints one
//! JSON object. The server's own CPU time is not in it.

use kit::testing::{NatsServer, spawn};
use kit::{Input, Needs, Now, Options, Output, Report, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

struct Hop {
    number: usize,
    of: usize,
    bytes: usize,
    passed: Arc<AtomicU64>,
}

fn subject(number: usize) -> String {
    format!("errand.measure.hop.{number}")
}

impl Stage for Hop {
    fn needs(&self) -> Needs {
        Needs { stage: "hop", subscribe: vec![(subject(self.number), Some("hop".into()))], ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        match input {
            Input::Message { payload, .. } => {
                self.passed.fetch_add(1, Relaxed);
                vec![Output::Publish { subject: subject((self.number + 1) % self.of), payload }]
            }
            // By then every hop listens.
            Input::Tick if self.number == 0 && self.passed.load(Relaxed) == 0 && now.mono_ms > 500 => {
                (0..64).map(|_| Output::Publish { subject: subject(1 % self.of), payload: vec![1; self.bytes] }).collect()
            }
            _ => vec![],
        }
    }

    fn report(&self) -> Report {
        Report::default()
    }
}

/// User and system time of this process, seconds, in clock ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after_name.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // The state letter is not a number, so that utime and stime are the 11th and 12th of these.
    fields.get(10).zip(fields.get(11)).map_or(0.0, |(user, system)| (user + system) / 100.0)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let given = |index: usize, default: usize| arguments.get(index).copied().unwrap_or(default);
    let (bytes, of, seconds) = (given(0, 2000), given(1, 3), given(2, 5));
    let server = NatsServer::start();
    let text = "name = \"measure\"\nschedule = []\n[world]\nname = \"frozenlake\"\n[broker]\nstream_mib = 64\n";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = kit::connect(&server.url(), Duration::from_secs(5)).await?;
        kit::init(&client, "measure", &schemas::pipeline::Pipeline::parse(text)?, text).await?;
        anyhow::Ok(())
    })?;
    let counters: Vec<Arc<AtomicU64>> = (0..of).map(|_| Arc::default()).collect();
    let stages: Vec<_> = counters
        .iter()
        .enumerate()
        .map(|(number, passed)| {
            let passed = passed.clone();
            spawn(Options::new(&server.url(), "measure", "hop"), move |_| Ok(Box::new(Hop { number, of, bytes, passed })))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let total = || counters.iter().map(|c| c.load(Relaxed)).sum::<u64>();
    let (begun, cpu, before) = (Instant::now(), cpu_seconds(), total());
    std::thread::sleep(Duration::from_secs(seconds as u64));
    let (wall, cpu, messages) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu, total() - before);
    stages.into_iter().for_each(kit::testing::Running::kill);
    println!(
        "{}",
        serde_json::json!({
            "bytes": bytes, "stages": of, "in_flight": 64, "hops_per_s": messages as f64 / wall,
            "cpu_us_per_hop": cpu * 1e6 / messages.max(1) as f64, "cores": cpu / wall,
        })
    );
    Ok(())
}
