//! Journeys: whole runs with the real programs, on a server of their own.
//!
//! The programs are taken from where this test binary was built; `cargo build --release --workspace --bins` makes them.

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use schemas::{Presence, subjects};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program of the workspace.
///
/// # Errors
/// It was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.parent().and_then(Path::parent).context("a test binary lies in target/release/deps")?;
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { bail!("`{}` is not built; hint: cargo build --release --workspace --bins", path.display()) }
}

/// A run under way: `errand up` on a server that the test owns.
pub struct Journey {
    pub home: tempfile::TempDir,
    pub server: kit::testing::NatsServer,
    pub run: String,
    errand: Child,
}

impl Journey {
    /// Starts `errand up` on the pipeline's text.
    ///
    /// # Errors
    /// A program that is not built, or a server that does not start.
    pub fn start(pipeline: &str, arguments: &[&str]) -> Result<Journey> {
        let home = tempfile::tempdir()?;
        let server = kit::testing::NatsServer::start();
        let file = home.path().join("pipeline.toml");
        std::fs::write(&file, pipeline)?;
        let run = "journey".to_string();
        let errand = spawn(home.path(), &run, &server.url(), arguments)?;
        Ok(Journey { home, server, run, errand })
    }

    /// Starts `errand up` once more on the same run, after the first has ended.
    ///
    /// # Errors
    /// As [`Journey::start`].
    pub fn again(&mut self, arguments: &[&str]) -> Result<()> {
        self.errand = spawn(self.home.path(), &self.run, &self.server.url(), arguments)?;
        Ok(())
    }

    pub fn folder(&self) -> PathBuf {
        self.home.path().join(&self.run)
    }

    /// What `errand` printed so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.home.path().join("errand.log")).unwrap_or_default()
    }

    /// Waits for the run's end and returns its summary.
    ///
    /// # Errors
    /// It takes too long, or ends with an error; the message holds what it printed and the stages' last lines.
    pub fn finish(&mut self, deadline: Duration) -> Result<serde_json::Value> {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if let Some(status) = self.errand.try_wait()? {
                if !status.success() {
                    bail!("errand ended with {status}\n{}", self.report());
                }
                let bytes = std::fs::read(self.folder().join("summary.json")).with_context(|| self.report())?;
                return Ok(serde_json::from_slice(&bytes)?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the run did not end within {deadline:?}\n{}", self.report())
    }

    fn report(&self) -> String {
        let mut text = self.printed();
        if let Ok(logs) = std::fs::read_dir(self.folder().join("logs")) {
            for log in logs.flatten() {
                let said = std::fs::read_to_string(log.path()).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(5).collect();
                text.push_str(&format!("\n-- {}\n", log.file_name().to_string_lossy()));
                text.extend(last.iter().rev().map(|line| format!("{line}\n")));
            }
        }
        text
    }

    /// The newest presence of every process, heard within `span`.
    ///
    /// # Errors
    /// The server is gone.
    pub fn presences(&self, span: Duration) -> Result<BTreeMap<String, Presence>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let client = async_nats::connect(self.server.url()).await?;
            let mut messages = client.subscribe(subjects::presence_all(&self.run)).await?;
            let deadline = tokio::time::Instant::now() + span;
            let mut heard = BTreeMap::new();
            while let Ok(Some(message)) = tokio::time::timeout_at(deadline, messages.next()).await {
                if let Ok(presence) = schemas::decode::<Presence>(&message.payload) {
                    heard.insert(presence.id.clone(), presence);
                }
            }
            Ok(heard)
        })
    }

    /// Waits until the presences satisfy a condition.
    ///
    /// # Errors
    /// They do not within `deadline`.
    pub fn wait_until(
        &mut self,
        deadline: Duration,
        what: &str,
        holds: impl Fn(&BTreeMap<String, Presence>) -> bool,
    ) -> Result<BTreeMap<String, Presence>> {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            let heard = self.presences(Duration::from_millis(1200))?;
            if holds(&heard) {
                return Ok(heard);
            }
            if let Some(status) = self.errand.try_wait()? {
                bail!("errand ended with {status} before {what}\n{}", self.report());
            }
        }
        bail!("{what} did not come within {deadline:?}\n{}", self.report())
    }

    /// Kills one process of a stage with SIGKILL and returns its pid.
    ///
    /// # Errors
    /// No process of that stage is alive, or the run is over.
    pub fn kill(&mut self, stage: &str) -> Result<u32> {
        let of_stage = |all: &BTreeMap<String, Presence>| {
            all.values().find(|p| p.stage == stage && is_alive(p.pid)).map(|p| p.pid) //
        };
        let heard = self.wait_until(Duration::from_secs(60), &format!("a live {stage}"), |all| of_stage(all).is_some())?;
        let pid = of_stage(&heard).with_context(|| format!("the {stage} ended by itself\n{}", self.report()))?;
        signal("-KILL", pid)?;
        Ok(pid)
    }

    /// Sends SIGINT to `errand`, as Ctrl-C does.
    ///
    /// # Errors
    /// `kill` cannot be run.
    pub fn interrupt(&self) -> Result<()> {
        signal("-INT", self.errand.id())
    }

    /// Waits for `errand` to be gone.
    ///
    /// # Errors
    /// It is not within `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<std::process::ExitStatus> {
        let until = Instant::now() + deadline;
        while Instant::now() < until {
            if let Some(status) = self.errand.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("errand did not end within {deadline:?}\n{}", self.report())
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if matches!(self.errand.try_wait(), Ok(None)) {
            let _ = signal("-TERM", self.errand.id());
            let _ = self.wait(Duration::from_secs(20));
        }
        let _ = self.errand.kill();
        let _ = self.errand.wait();
    }
}

fn spawn(home: &Path, run: &str, nats: &str, arguments: &[&str]) -> Result<Child> {
    let log = std::fs::File::create(home.join("errand.log"))?;
    let child = Command::new(program("errand")?)
        .arg("up")
        .arg(home.join("pipeline.toml"))
        .args(["--run", run, "--nats", nats])
        .arg("--runs")
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

fn signal(which: &str, pid: u32) -> Result<()> {
    let status = Command::new("kill").args([which, &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("`kill {which} {pid}` ended with {status}") }
}

/// Whether a process is there.
pub fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The digest of the weights of the newest checkpoint.
///
/// # Errors
/// There is none.
pub fn weights_digest(folder: &Path) -> Result<String> {
    let latest = std::fs::read_to_string(folder.join("checkpoints").join("latest"))?;
    let weights = folder.join("checkpoints").join(latest.trim()).join("policy").join("model.safetensors");
    let bytes = std::fs::read(&weights).with_context(|| format!("`{}`", weights.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// A pipeline that runs through every phase in seconds: small lakes, a tiny policy, few batches.
pub fn small_pipeline(deterministic: bool) -> String {
    format!(
        r#"
name = "small"
seed = 7
deterministic = {deterministic}

[world]
name = "frozenlake"
settings = {{ view = "cells" }}

[episodes]
validation = 24
group_size = 4
group_size_hard = 4

[prompt]
actions_per_turn = 3
observation_tokens = 40
segment_tokens = 256

[limits]
steps = 12
turns = 5
reply_tokens = 6
episode_tokens = 1024

[policy]
hidden = 32
layers = 2
heads = 2
kv_heads = 1
intermediate = 64
vocabulary = 512

[generator]
threads = 1
kv_cache_mib = 64

[learner]
threads = 1

[stages]
slots = 16

[broker]
ack_wait_s = 3.0
lease_s = 2.0

[[schedule]]
phase = "imitation"
batches = 40
batch = 16
learning_rate = 3e-3

[[schedule]]
phase = "dagger"
batches = 4
batch = 16

[[schedule]]
phase = "grpo"
batches = 6
batch = 4
"#
    )
}

/// [`small_pipeline`] in the world whose steps take time: however fast the machine, such a run lasts long enough to be disturbed in
/// the middle. Its length goes with its batches, so that a slow machine, which takes longer to disturb it, also takes longer to run it.
pub fn slow_pipeline(deterministic: bool) -> String {
    small_pipeline(deterministic)
        .replace("name = \"frozenlake\"", "name = \"delay\"")
        .replace("settings = { view = \"cells\" }", "settings = { view = \"cells\", step_ms = 8 }")
}
