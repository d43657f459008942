//! `errand export`: a run's trajectories as a dataset for another tool.

use crate::data::Which;
use crate::data::place::Place;
use crate::data::spoc;
use anyhow::{Context, Result, bail};
use clap::Args;
use env_stepper::again::{Again, Moment};
use futures::TryStreamExt;
use schemas::{End, Split};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use store::export::{Card, Dataset, Format, Plan, Sample, Shot, Step};
use store::{Summary, level_of};

/// What `errand export` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) which: Which,
    /// `verl`, `messages`, `sharegpt`, `lerobot` or `spoc`.
    #[arg(long, visible_alias = "format")]
    pub(crate) to: Form,
    /// A folder that is not there yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// The share of levels that make the split `val`; no level is in both.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) val: f64,
    /// Keep trajectories that did the same in the same level and task.
    #[arg(long)]
    pub(crate) keep_copies: bool,
}

/// A form of dataset: one that the store writes, or SPOC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Of(Format),
    Spoc,
}

impl std::str::FromStr for Form {
    type Err = String;
    fn from_str(text: &str) -> Result<Form, String> {
        if text == "spoc" { Ok(Form::Spoc) } else { text.parse().map(Form::Of).map_err(|error: String| format!("{error}, spoc")) }
    }
}

/// What is being written.
enum Out {
    Dataset(Dataset),
    Spoc(spoc::Film, Card),
}

/// Which trajectories are taken.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only successes.
    #[arg(long)]
    pub(crate) success: bool,
    /// Only this split of the run.
    #[arg(long)]
    pub(crate) split: Option<Split>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) min_return: Option<f32>,
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) max_return: Option<f32>,
    /// Primitive steps.
    #[arg(long)]
    pub(crate) min_steps: Option<u32>,
    #[arg(long)]
    pub(crate) max_steps: Option<u32>,
    /// The policy's version, or newer; trajectories without a policy stay out.
    #[arg(long)]
    pub(crate) min_version: Option<u64>,
    #[arg(long)]
    pub(crate) max_version: Option<u64>,
    /// Only where the task, its words or the bucket holds this text.
    #[arg(long)]
    pub(crate) task: Option<String>,
}

impl Filter {
    /// What the cheap columns say. Episodes that were not played to an end never pass.
    pub(crate) fn takes(&self, row: &Summary) -> bool {
        let newest = row.versions.map(|(_, newest)| newest);
        row.reason.is_played()
            && row.turns > 0
            && (!self.success || row.success)
            && self.split.is_none_or(|split| row.id.split == split)
            && self.min_return.is_none_or(|least| row.total_reward >= least)
            && self.max_return.is_none_or(|most| row.total_reward <= most)
            && self.min_steps.is_none_or(|least| row.steps >= least)
            && self.max_steps.is_none_or(|most| row.steps <= most)
            && self.min_version.is_none_or(|least| newest.is_some_and(|version| version >= least))
            && self.max_version.is_none_or(|most| newest.is_some_and(|version| version <= most))
    }

    fn takes_task(&self, end: &End, instruction: &str) -> bool {
        let told = |text: &String| {
            instruction.contains(text.as_str())
                || end.episode.bucket.contains(text.as_str())
                || String::from_utf8_lossy(&end.episode.task).contains(text.as_str())
        };
        self.task.as_ref().is_none_or(told)
    }
}

/// Exports and says what was written.
///
/// # Errors
/// A store that cannot be read, a world that cannot be made, or a folder that is taken.
pub(crate) async fn export(arguments: &Arguments, runs: &Path) -> Result<()> {
    let place = Place::open(runs, &arguments.which).await?;
    let again = place.again()?;
    let pipeline = again.pipeline();
    if arguments.to == Form::Of(Format::LeRobot) && !(0.0..1.0).contains(&arguments.val) || !(0.0..=1.0).contains(&arguments.val) {
        bail!("`--val` is {}; allowed: 0 to 1", arguments.val);
    }
    let plan = Plan {
        run: arguments.which.run.clone(),
        world: pipeline.world.name.clone(),
        actions: again.kind().actions().iter().map(|action| action.name.to_string()).collect(),
        pictures: pipeline.world.pictures,
    };
    let mut maker = Maker { again: &again, arguments, numbers: numbers(&plan.actions), seen: BTreeSet::new(), copies: 0 };
    let mut out = match arguments.to {
        Form::Of(format) => Out::Dataset(Dataset::create(&arguments.out, format, plan.clone())?),
        Form::Spoc => {
            store::export::free_folder(&arguments.out)?;
            Out::Spoc(spoc::Film::create(&arguments.out)?, Card::default())
        }
    };
    let filter = arguments.filter.clone();
    let ends = place.reader.trajectories_where(move |row| filter.takes(row));
    let mut ends = std::pin::pin!(ends);
    while let Some(end) = ends.try_next().await? {
        let Some(sample) = maker.sample(end)? else { continue };
        match &mut out {
            Out::Dataset(dataset) => dataset.add(&sample)?,
            Out::Spoc(film, card) => {
                film.add(&again, &sample.end, &sample.split).with_context(|| sample.end.id().to_string())?;
                card.count(&sample.end, &sample.split);
            }
        }
    }
    let copies = maker.copies;
    let card = match out {
        Out::Dataset(dataset) => dataset.finish(&command())?,
        Out::Spoc(film, card) => {
            let card = Card { files: film.finish()?, ..card };
            std::fs::write(arguments.out.join("README.md"), card.text("spoc", &plan, &command()))?;
            card
        }
    };
    for (split, counts) in &card.splits {
        println!("{split}: {} trajectories, {} turns, {} levels", counts.trajectories, counts.turns, counts.levels.len());
    }
    for (file, rows) in &card.files {
        println!("{} ({rows} rows)", arguments.out.join(file).display());
    }
    if copies > 0 {
        println!("{copies} copies were left out; hint: --keep-copies takes them");
    }
    if card.splits.is_empty() {
        bail!("no trajectory passes the filters; hint: `errand data ls {}` says what there is", arguments.which.run);
    }
    Ok(())
}

/// The command line that made the dataset.
fn command() -> String {
    std::iter::once("errand".to_string()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

fn numbers(actions: &[String]) -> BTreeMap<String, u32> {
    actions.iter().cloned().zip(0..).collect()
}

/// Makes samples of ends.
struct Maker<'a> {
    again: &'a Again,
    arguments: &'a Arguments,
    numbers: BTreeMap<String, u32>,
    seen: BTreeSet<String>,
    copies: u64,
}

impl Maker<'_> {
    /// `None`: it is left out.
    fn sample(&mut self, mut end: End) -> Result<Option<Sample>> {
        let name = end.id().to_string();
        let scene = self.again.scene(&end.episode).map_err(anyhow::Error::msg).with_context(|| name.clone())?;
        let opening = self.again.opening(&end.episode, scene.as_deref()).map_err(anyhow::Error::msg).with_context(|| name.clone())?;
        if !self.arguments.filter.takes_task(&end, &opening.instruction) {
            return Ok(None);
        }
        if !self.arguments.keep_copies && !self.seen.insert(likeness(&end)) {
            self.copies += 1;
            return Ok(None);
        }
        let kept: BTreeSet<&str> = end.frames.iter().map(|frame| frame.digest.as_str()).collect();
        let lacks = end.turns.iter().flat_map(|turn| &turn.frames).any(|digest| !kept.contains(digest.as_str()));
        // SPOC's films are made of every step, not of every turn.
        if lacks && self.arguments.to != Form::Spoc {
            end.frames = self.again.frames(&end, scene.as_deref()).map_err(anyhow::Error::msg)?;
        }
        let steps =
            if self.arguments.to == Form::Of(Format::LeRobot) { self.steps(&end, scene.as_deref()).with_context(|| name)? } else { vec![] };
        let split = if is_val(&level_of(&end.episode), self.arguments.val) { "val" } else { "train" };
        Ok(Some(Sample { end, split: split.into(), system: opening.system, instruction: opening.instruction, steps }))
    }

    /// Every primitive step, lived again: what was seen before it, and what came of it.
    fn steps(&self, end: &End, scene: Option<&[u8]>) -> Result<Vec<Step>> {
        let (mut steps, mut wrong): (Vec<Step>, Option<String>) = (vec![], None);
        let mut before: Option<Step> = None;
        let see = |world: &dyn worlds::World| {
            let shots = world.pictures().iter().map(shot).collect::<Result<Vec<Shot>, String>>()?;
            let state = world.body().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
            Ok::<Step, String>(Step { pictures: shots, state, ..Step::default() })
        };
        let mut look = |moment: Moment| {
            let outcome = match moment {
                Moment::Turn { world, .. } if before.is_none() => see(world).map(|step| before = Some(step)),
                Moment::Step { action, acted, world, .. } => see(world).map(|next| {
                    if let Some(step) = before.replace(next) {
                        let action = self.numbers.get(action).copied().unwrap_or(u32::MAX);
                        steps.push(Step { action, reward: acted.reward, worked: acted.worked, ..step });
                    }
                }),
                _ => Ok(()),
            };
            wrong = wrong.take().or(outcome.err());
        };
        let differences = self.again.live(end, scene, &mut look).map_err(anyhow::Error::msg)?;
        if let Some(difference) = differences.first() {
            bail!("{difference}");
        }
        if let Some(wrong) = wrong {
            bail!("{wrong}");
        }
        // What the world leaves to the pipeline is paid at the end.
        let paid: f32 = steps.iter().map(|step| step.reward).sum();
        if let Some(last) = steps.last_mut() {
            last.reward += end.total_reward() - paid;
        }
        Ok(steps)
    }
}

fn shot(picture: &worlds::Picture) -> Result<Shot, String> {
    let frame = env_stepper::encode_picture(picture)?;
    Ok(Shot { camera: frame.camera, width: frame.width, height: frame.height, rgb: picture.rgb.clone(), png: frame.png })
}

/// Equal for trajectories that did the same in the same level and task.
fn likeness(end: &End) -> String {
    let mut told = level_of(&end.episode).into_bytes();
    told.extend_from_slice(&end.episode.task);
    for turn in &end.turns {
        told.push(0);
        told.extend_from_slice(turn.reply.as_bytes());
    }
    schemas::digest_of(&told)
}

/// Decided by the level alone, so that a level is in the same split of every export.
fn is_val(level: &str, share: f64) -> bool {
    let digest = schemas::digest_of(format!("split {level}").as_bytes());
    let number = u64::from_str_radix(&digest[..13], 16).unwrap_or(0);
    (number as f64) < share * (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    #[test]
    fn a_level_is_in_one_split_and_the_share_is_kept() {
        let levels: Vec<String> = (0..4000).map(|n| format!("{n:016x}")).collect();
        let val = levels.iter().filter(|level| is_val(level, 0.1)).count();
        assert!((320..480).contains(&val), "{val}");
        assert!(levels.iter().all(|level| !is_val(level, 0.0) && is_val(level, 1.0)));
        assert!(levels.iter().all(|level| !is_val(level, 0.1) || is_val(level, 0.3)), "a larger share only adds");
    }

    #[test]
    fn copies_are_alike_and_others_are_not() {
        let one = End::example();
        let mut other = one.clone();
        other.episode.id.number += 1;
        assert_eq!(likeness(&one), likeness(&other));
        other.turns[0].reply = "Left".into();
        assert_ne!(likeness(&one), likeness(&other));
    }
}
