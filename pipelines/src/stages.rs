//! The run's processes: started, watched, started again when they die, stopped.

use crate::broker::bound_to_parent;
use anyhow::{Context, Result, bail};
use schemas::pipeline::Pipeline;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A stage that ends with an error this often within a minute is not started again.
const FAILURES_PER_MINUTE: usize = 4;
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// Where stages find their broker and their run.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) nats: String,
    pub(crate) run: String,
    pub(crate) folder: PathBuf,
}

#[derive(Debug)]
struct Process {
    stage: &'static str,
    id: String,
    threads: u32,
    child: Option<Child>,
    failures: VecDeque<Instant>,
    restarts: u32,
}

/// All processes of a run on this host.
#[derive(Debug)]
pub(crate) struct Processes {
    place: Place,
    processes: Vec<Process>,
}

/// How many of each stage, in the order in which a message meets them.
pub(crate) fn crew(pipeline: &Pipeline) -> Vec<(&'static str, u32, u32)> {
    let s = &pipeline.stages;
    // A pipeline that plays nothing has no one to order it.
    let plays = u32::from(!pipeline.is_offline_only());
    vec![
        ("scene-loader", plays, 1),
        ("env-stepper", s.env_steppers, 1),
        ("prompt-renderer", plays * s.prompt_renderers, 1),
        ("generator", plays * s.generators, pipeline.generator.threads),
        ("replayer", u32::from(pipeline.offline.is_some()), 1),
        ("learner", 1, pipeline.learner.threads),
        ("recorder", s.recorders, 1),
    ]
}

impl Processes {
    /// Starts the whole crew.
    pub(crate) fn start(place: Place, pipeline: &Pipeline) -> Result<Processes> {
        let mut all = Processes { place, processes: Vec::new() };
        for (stage, count, threads) in crew(pipeline) {
            for number in 1..=count {
                let id = format!("{stage}-{number}");
                all.processes.push(Process { stage, id, threads, child: None, failures: VecDeque::new(), restarts: 0 });
            }
        }
        for index in 0..all.processes.len() {
            all.spawn(index)?;
        }
        Ok(all)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let place = &self.place;
        let process = &mut self.processes[index];
        let program = beside_this(process.stage)?;
        let log = place.folder.join("logs").join(format!("{}.log", process.id));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("`{}` cannot be written", log.display()))?;
        let child = bound_to_parent(&program)
            .args(["--nats", &place.nats, "--run", &place.run, "--id", &process.id])
            .arg("--folder")
            .arg(&place.folder)
            .env("OMP_NUM_THREADS", process.threads.to_string())
            .env("OMP_WAIT_POLICY", "PASSIVE")
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("`{}` cannot be started", program.display()))?;
        process.child = Some(child);
        Ok(())
    }

    /// Starts again what has died. A death by signal is always mended; an exit with an error only a few times a minute.
    ///
    /// # Errors
    /// A stage that keeps ending with an error, with its own last line.
    pub(crate) fn mend(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let Some(status) = process.child.as_mut().map(Child::try_wait).transpose()?.flatten() else { continue };
            process.child = None;
            process.restarts += 1;
            if status.code().is_some() {
                let now = Instant::now();
                process.failures.push_back(now);
                process.failures.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
                if process.failures.len() >= FAILURES_PER_MINUTE {
                    let said = last_line(&self.place.folder.join("logs").join(format!("{}.log", process.id)));
                    bail!("`{}` keeps ending ({status}): {said}", process.id);
                }
            }
            lines.push(format!("{} ended ({status}), starting it again", process.id));
            self.spawn(index)?;
        }
        Ok(lines)
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.processes.iter().map(|p| p.restarts).sum()
    }

    /// Asks all to finish, and ends what has not after 15 s.
    pub(crate) fn stop(&mut self) {
        for child in self.processes.iter().filter_map(|p| p.child.as_ref()) {
            let _ = std::process::Command::new("kill").arg(child.id().to_string()).status();
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline && self.processes.iter_mut().any(is_alive) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in &mut self.processes {
            if let Some(mut child) = process.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_alive(process: &mut Process) -> bool {
    let ended = process.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
    if ended {
        process.child = None;
    }
    !ended
}

/// The program of a stage lies beside `errand`.
pub(crate) fn beside_this(stage: &str) -> Result<PathBuf> {
    let folder = std::env::current_exe()?.parent().map(Path::to_path_buf).unwrap_or_default();
    // Test binaries lie one folder deeper.
    let candidates = [folder.join(stage), folder.join("..").join(stage)];
    let found = candidates.into_iter().find(|path| path.is_file());
    found.with_context(|| {
        format!("`{stage}` is not beside `errand` in {}; hint: cargo build --release --workspace --bins", folder.display())
    })
}

pub(crate) fn last_line(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(its log is empty)").to_string()
}
