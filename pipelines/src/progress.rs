//! What a person sees while a run works: a line a stage, drawn from the stages' own presence.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use schemas::Presence;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The order in which a message meets the stages.
const ORDER: [&str; 7] = ["scene-loader", "env-stepper", "prompt-renderer", "generator", "replayer", "learner", "recorder"];
/// Without a terminal a few lines are printed this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Counts over the whole run; processes that were started again go on counting from 0, which this adds up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// By stage and gauge.
    gauges: BTreeMap<(String, String), f64>,
    /// From the first turn to the last one heard of.
    pub(crate) turning: Duration,
}

impl Totals {
    pub(crate) fn gauge(&self, stage: &str, name: &str) -> f64 {
        self.gauges.get(&(stage.to_string(), name.to_string())).copied().unwrap_or(0.0)
    }
}

#[derive(Debug, Default)]
struct Seen {
    last: Presence,
    /// What earlier processes of this id had counted.
    before: BTreeMap<String, f64>,
    done_before: u64,
    at: Option<Instant>,
    rate: f64,
}

/// The display, and what was heard so far.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Those of [`ORDER`] that the run has.
    stages: Vec<&'static str>,
    started: Instant,
    seen: BTreeMap<String, Seen>,
    bars: Option<(MultiProgress, BTreeMap<&'static str, ProgressBar>)>,
    plain_at: Instant,
    first_turn: Option<Instant>,
    last_turn: Option<Instant>,
}

impl Progress {
    /// `runs`: whether the run has a stage.
    pub(crate) fn new(run: &str, runs: impl Fn(&str) -> bool) -> Progress {
        let stages: Vec<&'static str> = ORDER.into_iter().filter(|stage| runs(stage)).collect();
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{prefix:>16} {msg}").expect("the template is well-formed");
            let title = all.add(ProgressBar::new_spinner().with_style(style.clone()));
            title.set_prefix("run");
            title.set_message(run.to_string());
            let lines = stages.iter().map(|&stage| {
                let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()));
                bar.set_prefix(stage);
                bar.set_message("starting");
                (stage, bar)
            });
            let lines = lines.collect();
            (all, lines)
        });
        let now = Instant::now();
        Progress { stages, started: now, seen: BTreeMap::new(), bars, plain_at: now, first_turn: None, last_turn: None }
    }

    /// Takes in one presence.
    pub(crate) fn hear(&mut self, presence: Presence) {
        let now = Instant::now();
        let seen = self.seen.entry(presence.id.clone()).or_default();
        if seen.last.pid != presence.pid && seen.last.pid != 0 {
            for (name, value) in std::mem::take(&mut seen.last.gauges) {
                if name.ends_with("_total") {
                    *seen.before.entry(name).or_default() += value;
                }
            }
            seen.done_before += seen.last.done;
            seen.at = None;
        }
        if let Some(at) = seen.at {
            let seconds = now.duration_since(at).as_secs_f64().max(0.05);
            let fresh = presence.done.saturating_sub(seen.last.done) as f64 / seconds;
            seen.rate = 0.7 * seen.rate + 0.3 * fresh;
        }
        let turned = |p: &Presence| p.gauges.get("turns_total").copied().unwrap_or(0.0);
        if presence.stage == "env-stepper" && turned(&presence) > turned(&seen.last) {
            self.first_turn.get_or_insert(now);
            self.last_turn = Some(now);
        }
        seen.at = Some(now);
        seen.last = presence;
    }

    /// The learner has made its last step and has said so.
    pub(crate) fn is_finished(&self) -> bool {
        let learner = self.of("learner").next();
        let finished = learner.is_some_and(|s| s.last.gauges.get("finished").copied().unwrap_or(0.0) >= 1.0);
        // That each end has its use as well is seen by the stream of ends, which is then empty.
        let replayed = self.over_splits("replayer", "published");
        let all_replayed = replayed == 0 || replayed == self.gauge_now("learner", "ends_used") as u64;
        finished && all_replayed && self.over_splits("scene-loader", "published") == self.over_splits("scene-loader", "ended")
    }

    /// Over all splits, of one stage.
    fn over_splits(&self, stage: &str, what: &str) -> u64 {
        ["train", "val", "expert"].iter().map(|split| self.gauge_now(stage, &format!("{what}_{split}")) as u64).sum()
    }

    fn of<'a>(&'a self, stage: &'a str) -> impl Iterator<Item = &'a Seen> + 'a {
        self.seen.values().filter(move |s| s.last.stage == stage)
    }

    fn gauge_now(&self, stage: &str, name: &str) -> f64 {
        self.of(stage).filter_map(|s| s.last.gauges.get(name)).sum()
    }

    /// Sums over processes, dead ones included.
    pub(crate) fn totals(&self) -> Totals {
        let mut gauges = BTreeMap::new();
        for seen in self.seen.values() {
            for (name, value) in seen.before.iter().chain(&seen.last.gauges) {
                *gauges.entry((seen.last.stage.clone(), name.clone())).or_insert(0.0) += value;
            }
        }
        let turning = match (self.first_turn, self.last_turn) {
            (Some(first), Some(last)) => last.duration_since(first),
            _ => Duration::ZERO,
        };
        Totals { gauges, turning }
    }

    /// Prints a line above the display.
    pub(crate) fn say(&self, line: &str) {
        match &self.bars {
            Some((all, _)) => {
                let _ = all.println(line);
            }
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn draw(&mut self) {
        match &self.bars {
            Some((_, bars)) => {
                for (stage, bar) in bars {
                    bar.set_message(self.line(stage));
                    bar.tick();
                }
            }
            None if self.plain_at.elapsed() >= PLAIN_EVERY => {
                self.plain_at = Instant::now();
                let seconds = self.started.elapsed().as_secs();
                for stage in self.stages.clone() {
                    eprintln!("{seconds:>5} s {stage:>16} {}", self.line(stage));
                }
            }
            None => {}
        }
    }

    fn line(&self, stage: &str) -> String {
        let (mut done, mut waiting, mut rate, mut copies, mut said) = (0, 0, 0.0, 0, String::new());
        for seen in self.of(stage) {
            done += seen.done_before + seen.last.done;
            waiting += seen.last.waiting;
            rate += seen.rate;
            copies += 1;
            if !seen.last.line.is_empty() {
                said = format!("  {}", seen.last.line);
            }
        }
        if copies == 0 {
            return "starting".into();
        }
        format!("×{copies}  {done:>8} done  {rate:>7.1}/s  {waiting:>5} waiting{said}")
    }

    pub(crate) fn finish(&mut self) {
        if let Some((_, bars)) = &self.bars {
            for bar in bars.values() {
                bar.abandon();
            }
        }
    }
}
