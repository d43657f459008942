//! The dataset card: what the dataset holds, and the command that made it.

use super::Plan;
use crate::level_of;
use schemas::End;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Counts of one split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    pub trajectories: u64,
    pub successes: u64,
    pub turns: u64,
    pub steps: u64,
    pub levels: BTreeSet<String>,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    pub splits: BTreeMap<String, Counts>,
    /// With their rows, relative to the dataset's folder.
    pub files: Vec<(String, u64)>,
}

impl Card {
    /// Counts a sample in.
    pub fn count(&mut self, end: &End, split: &str) {
        let counts = self.splits.entry(split.into()).or_default();
        counts.trajectories += 1;
        counts.successes += u64::from(end.success);
        counts.turns += end.turns.len() as u64;
        counts.steps += u64::from(end.steps);
        counts.levels.insert(level_of(&end.episode));
    }

    /// Markdown with the head that the Hugging Face hub reads. `command`: what made the dataset.
    pub fn text(&self, format: &str, plan: &Plan, command: &str) -> String {
        let mut out = String::from("---\n");
        let mut line = |text: std::fmt::Arguments| writeln!(out, "{text}").expect("a string takes what is written");
        line(format_args!("tags: [errand, {}]", plan.world));
        if matches!(format, "verl" | "messages") {
            line(format_args!("configs:\n- config_name: default\n  data_files:"));
            for split in self.splits.keys() {
                line(format_args!("  - split: {split}\n    path: data/{split}.parquet"));
            }
        }
        line(format_args!("---\n\n# Trajectories of `{}` in `{}`\n", plan.run, plan.world));
        line(format_args!("Format: {format}. Made by\n\n    {command}\n"));
        line(format_args!("| split | trajectories | successes | turns | primitive steps | levels |\n|---|---|---|---|---|---|"));
        for (split, c) in &self.splits {
            let (t, s, turns, steps, levels) = (c.trajectories, c.successes, c.turns, c.steps, c.levels.len());
            line(format_args!("| {split} | {t} | {s} | {turns} | {steps} | {levels} |"));
        }
        line(format_args!("\nNo level (a house, or a grid) is in more than one split.\n\n| file | rows |\n|---|---|"));
        for (file, rows) in &self.files {
            line(format_args!("| {file} | {rows} |"));
        }
        out
    }
}
