//! The learner's slow work, off the loop: making or restoring the policy, training a batch, writing checkpoints.
//!
//! In: an [`Order`] and the [`Shop`] (optimiser and window), which travels with it. Out: the shop and what was [`Done`].
//! One order is carried out at a time, so nothing here is shared.

use crate::checkpoint;
use crate::groups;
use crate::optimiser::{Digests, Files, Maker, Optimiser, Reinforce, Stats};
use crate::report;
use crate::state::{Outcome, State};
use crate::tokens::{Counts, Sequence, Trajectory};
use crate::validation::Pass;
use crate::window::{self, Window};
use kit::stage::Work;
use schemas::pipeline::{Aggregate, PhaseConfig, Pipeline};
use schemas::uses::USES_FILE;
use schemas::{EpisodeId, Use, Uses, UsesFile, seed_of};
use serde_json::Value;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Weights and window: what only the work touches.
pub struct Shop<O> {
    /// `None` where no step is ever taken.
    pub optimiser: Option<O>,
    pub window: Window,
    /// Whether the weights have changed since the last checkpoint.
    pub changed: bool,
    pub files: Arc<Files>,
}

/// Where the run's files lie, and how it is set.
#[derive(Clone, Debug)]
pub struct Place {
    pub folder: PathBuf,
    pub pipeline: Arc<Pipeline>,
    /// When the broker's record of the run was made, Unix microseconds.
    pub(crate) since_us: u64,
}

impl Place {
    pub fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    fn windows(&self) -> PathBuf {
        self.folder.join("window")
    }

    /// Where the reference of a phase's KL penalty lies.
    fn reference(&self, phase: usize) -> PathBuf {
        self.folder.join("reference").join(phase.to_string())
    }
}

/// The state as it is to be written.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub state: State,
    pub uses: Uses,
}

/// What a batch trains.
#[derive(Clone, Debug)]
pub enum Batch {
    /// New episodes, and others from the window.
    Imitate { new: Vec<Arc<Trajectory>>, held_out: Vec<Arc<Trajectory>>, fed: bool },
    /// Whole groups: each episode with its advantage.
    Reinforce(Vec<(Arc<Trajectory>, f32)>),
}

/// What is to be done.
pub enum Order<M: Maker> {
    Start {
        maker: Option<M>,
        files: Files,
    },
    Train {
        snapshot: Snapshot,
        batch: Batch,
        keep: bool,
        line: Value,
    },
    /// A checkpoint without a step: uses, validation, counters.
    Commit {
        snapshot: Snapshot,
    },
}

/// What came of it.
pub enum Done {
    Started { snapshot: Box<Snapshot>, digests: Digests, weights: Option<Vec<u8>>, fresh: bool },
    Trained { outcome: Box<Outcome>, weights: Vec<u8>, kept: bool },
    Committed,
}

/// An order under way, and its result.
pub struct Task<M: Maker> {
    pub place: Place,
    pub shop: Option<Shop<M::O>>,
    pub order: Option<Order<M>>,
    pub done: Option<Result<Done, String>>,
}

impl<M: Maker> Work for Task<M> {
    fn run(mut self: Box<Self>) -> Box<dyn Work> {
        if let Some(order) = self.order.take() {
            self.done = Some(self.carry_out(order));
        }
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl<M: Maker> Task<M> {
    fn carry_out(&mut self, order: Order<M>) -> Result<Done, String> {
        match order {
            Order::Start { maker, files } => {
                let (shop, done) = start(&self.place, maker, files)?;
                self.shop = Some(shop);
                Ok(done)
            }
            Order::Train { snapshot, batch, keep, line } => {
                let shop = self.shop.as_mut().ok_or("a batch came before the policy")?;
                train(&self.place, shop, snapshot, &batch, keep, line)
            }
            Order::Commit { snapshot } => {
                let shop = self.shop.as_mut().ok_or("a checkpoint came before the policy")?;
                write(&self.place, shop, &snapshot)?;
                Ok(Done::Committed)
            }
        }
    }
}

// --- Start -------------------------------------------------------------------------------------------------------------

fn start<M: Maker>(place: &Place, maker: Option<M>, files: Files) -> Result<(Shop<M::O>, Done), String> {
    let latest = checkpoint::latest(&place.checkpoints()).map_err(|e| e.to_string())?;
    let fresh = latest.is_none();
    let mut shop = Shop { optimiser: None, window: Window::default(), changed: fresh, files: Arc::new(files) };
    let mut snapshot = Snapshot { state: State::new(), uses: Uses::default() };
    let mut digests = Digests::default();
    let from = latest.map(|(_, folder)| folder);
    if let Some(folder) = &from {
        snapshot = read(folder)?;
        snapshot.state.restored();
        if snapshot.state.since_us != place.since_us {
            tracing::warn!("the broker has no record of what went on: episodes that were under way are given up");
            snapshot.state.forfeit(&place.pipeline);
        }
        shop.window = window::restore(&place.windows(), &snapshot.state.chunks).map_err(|e| e.to_string())?;
    } else if place.pipeline.learner.validate && maker.is_some() {
        snapshot.state.passes.push(Pass { phase: "start".into(), ..Pass::default() });
    }
    snapshot.state.since_us = place.since_us;
    if let Some(mut maker) = maker {
        let (optimiser, made) = match &from {
            None => maker.create(&shop.files)?,
            Some(folder) => {
                let reference = Some(place.reference(snapshot.state.phase)).filter(|r| r.is_dir() && snapshot.state.part.batches > 0);
                maker.restore(&shop.files, &folder.join(POLICY), reference.as_deref())?
            }
        };
        (shop.optimiser, digests) = (Some(optimiser), made);
    }
    write(place, &mut shop, &snapshot)?;
    let weights = shop.optimiser.as_mut().map(Optimiser::weights);
    Ok((shop, Done::Started { snapshot: Box::new(snapshot), digests, weights, fresh }))
}

// --- Checkpoints -------------------------------------------------------------------------------------------------------

/// The policy's folder within a checkpoint.
pub const POLICY: &str = "policy";
const STATE_FILE: &str = "learner.json";

/// Reads a checkpoint.
///
/// # Errors
/// The file at fault.
pub fn read(folder: &Path) -> Result<Snapshot, String> {
    let path = folder.join(STATE_FILE);
    let bytes = checkpoint::read(&path).map_err(|e| e.to_string())?;
    let state = serde_json::from_slice(&bytes).map_err(|e| format!("`{}`: {e}", path.display()))?;
    let path = folder.join(USES_FILE);
    let bytes = checkpoint::read(&path).map_err(|e| e.to_string())?;
    let file: UsesFile = schemas::decode(&bytes).map_err(|e| format!("`{}`: {e}", path.display()))?;
    Ok(Snapshot { state, uses: file.uses })
}

/// Writes a checkpoint: uses and counters together with the weights that they belong to.
fn write<O: Optimiser>(place: &Place, shop: &mut Shop<O>, snapshot: &Snapshot) -> Result<(), String> {
    let Snapshot { state, uses } = snapshot;
    let root = place.checkpoints();
    let before = checkpoint::latest(&root).map_err(|e| e.to_string())?;
    let mut state = state.clone();
    // Numbers go on from what is on the disk, whatever the snapshot says.
    state.checkpoint = before.as_ref().map_or(0, |(number, _)| number + 1);
    state.reserve(u64::from(place.pipeline.learner.checkpoint_every));
    let file =
        UsesFile { version: state.version, batch: state.batch, step: state.step, trained_tokens: state.tokens.trained, uses: uses.clone() };
    let changed = shop.changed;
    let optimiser = &mut shop.optimiser;
    let fill = |folder: &Path| {
        if let Some(optimiser) = optimiser {
            let policy = folder.join(POLICY);
            match &before {
                Some((_, last)) if !changed && last.join(POLICY).is_dir() => checkpoint::share_files(&last.join(POLICY), &policy)?,
                _ => {
                    std::fs::create_dir(&policy)?;
                    optimiser.save(&policy)?;
                }
            }
        }
        std::fs::write(folder.join(STATE_FILE), serde_json::to_vec_pretty(&state)?)?;
        std::fs::write(folder.join(USES_FILE), schemas::encode(&file))
    };
    checkpoint::commit(&root, state.checkpoint, fill).map_err(|e| e.to_string())?;
    shop.changed = false;
    report::write(place, &state).map_err(|e| e.to_string())?;
    prune_windows(place, &state);
    Ok(())
}

/// Removes chunks that neither this checkpoint nor the one before it names.
fn prune_windows(place: &Place, state: &State) {
    if !place.windows().is_dir() {
        return;
    }
    let mut kept: BTreeSet<u64> = state.chunks.iter().map(|c| c.number).collect();
    let last = state.checkpoint.checked_sub(1).map(|n| place.checkpoints().join(n.to_string()));
    if let Some(Ok(last)) = last.filter(|folder| folder.is_dir()).map(|folder| read(&folder)) {
        kept.extend(last.state.chunks.iter().map(|c| c.number));
    }
    window::prune(&place.windows(), &kept);
}

// --- Training ----------------------------------------------------------------------------------------------------------

fn train<O: Optimiser>(
    place: &Place,
    shop: &mut Shop<O>,
    snapshot: Snapshot,
    batch: &Batch,
    keep: bool,
    line: Value,
) -> Result<Done, String> {
    let started = Instant::now();
    let Snapshot { mut state, mut uses } = snapshot;
    let config = state.config(&place.pipeline).ok_or("a batch came after the last phase")?.clone();
    let mut outcome = match batch {
        Batch::Imitate { new, held_out, fed } => imitate(place, shop, &state, &config, new, held_out, *fed)?,
        Batch::Reinforce(all) => {
            anchor(place, shop, &state, &config)?;
            reinforce(shop, &config, all)?
        }
    };
    if !outcome.counts.adds_up() {
        return Err(format!("the batch's tokens do not add up: {:?}; trained must be sampled minus masked", outcome.counts));
    }
    outcome.train_s = started.elapsed().as_secs_f64();
    for (id, what) in &outcome.uses {
        uses.set(*id, *what).map_err(|e| e.to_string())?;
    }
    let phase = state.phase_name(&place.pipeline);
    state.apply(&outcome);
    shop.changed = true;
    let written = Instant::now();
    if keep {
        write(place, shop, &Snapshot { state: state.clone(), uses })?;
    }
    let checkpoint_s = written.elapsed().as_secs_f64();
    let line = report::batch_line(&state, &outcome, phase, checkpoint_s, line);
    checkpoint::append(&place.folder.join("learner.jsonl"), &line.to_string()).map_err(|e| e.to_string())?;
    let optimiser = shop.optimiser.as_mut().ok_or("a batch came before the policy")?;
    Ok(Done::Trained { outcome: Box::new(outcome), weights: optimiser.weights(), kept: keep })
}

/// Batches between two looks at the held-out loss where nothing depends on it.
const LOSS_EVERY: u64 = 8;

fn imitate<O: Optimiser>(
    place: &Place,
    shop: &mut Shop<O>,
    state: &State,
    config: &PhaseConfig,
    new: &[Arc<Trajectory>],
    held_out: &[Arc<Trajectory>],
    fed: bool,
) -> Result<Outcome, String> {
    // The window's chunk is named by the batch: written again, after a crash, it replaces one that nothing refers to.
    let chunk = window::write_chunk(&place.windows(), state.batch, new, held_out).map_err(|e| e.to_string())?;
    shop.window.push(new, held_out);
    let seed = seed_of(place.pipeline.seed, &[b"batch", &state.batch.to_le_bytes()]);
    let steps = window::mix(new, &shop.window, config.batch as usize, config.epochs as usize, seed);
    let optimiser = shop.optimiser.as_mut().ok_or("no policy to train")?;
    let mut tally = Tally::new(new.iter().map(Arc::as_ref));
    for step in &steps {
        let given: Vec<(&Trajectory, f32)> = step.iter().map(|t| (t.as_ref(), 1.0)).collect();
        tally.step(&given, |sequences| optimiser.imitate(sequences, config.learning_rate))?;
    }
    let mut outcome = tally.outcome();
    let measured = shop.window.held_out();
    if !measured.is_empty() && (config.patience > 0 || state.part.batches.is_multiple_of(LOSS_EVERY)) {
        let sequences: Vec<Sequence> = measured.iter().flat_map(|t| t.sequences(1.0)).collect();
        outcome.held_out_loss = Some(optimiser.imitation_loss(&sequences)?);
        outcome.held_out = measured.len() as u64;
    }
    outcome.uses.extend(held_out.iter().map(|t| (t.id, Use::Evaluated)));
    outcome.chunk = chunk;
    outcome.fed = fed;
    outcome.taken = new.iter().filter(|t| t.id.split == schemas::Split::Expert).count() as u64;
    Ok(outcome)
}

/// The KL penalty's reference is the policy at the phase's start; it is kept on disk for a learner that is restored.
fn anchor<O: Optimiser>(place: &Place, shop: &mut Shop<O>, state: &State, config: &PhaseConfig) -> Result<(), String> {
    let Some(optimiser) = shop.optimiser.as_mut().filter(|_| config.kl > 0.0 && state.part.batches == 0) else { return Ok(()) };
    let folder = place.reference(state.phase);
    let mut save = || {
        std::fs::remove_dir_all(&folder).or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        std::fs::create_dir_all(&folder)?;
        optimiser.save(&folder)
    };
    save().map_err(|e| format!("`{}` cannot be written: {e}", folder.display()))?;
    optimiser.anchor()
}

fn reinforce<O: Optimiser>(shop: &mut Shop<O>, config: &PhaseConfig, all: &[(Arc<Trajectory>, f32)]) -> Result<Outcome, String> {
    let options = Reinforce { clip: config.clip, entropy: config.entropy, kl: config.kl, learning_rate: config.learning_rate };
    let optimiser = shop.optimiser.as_mut().ok_or("no policy to train")?;
    let mut tally = Tally::new(all.iter().map(|(t, _)| t.as_ref()));
    let given = weigh(all, config.aggregate);
    for _ in 0..config.epochs.max(1) {
        tally.step(&given, |sequences| optimiser.reinforce(sequences, &options))?;
    }
    Ok(Outcome { fed: true, ..tally.outcome() })
}

/// Advantages as the loss, a mean over tokens, is to see them: scaled so that each episode weighs the same, or as they are.
fn weigh(all: &[(Arc<Trajectory>, f32)], aggregate: Aggregate) -> Vec<(&Trajectory, f32)> {
    let tokens = |t: &Trajectory| t.counts.trained.max(1) as f32;
    let mean = all.iter().map(|(t, _)| tokens(t)).sum::<f32>() / all.len().max(1) as f32;
    let scale = |t: &Trajectory| match aggregate {
        Aggregate::Episode => mean / tokens(t),
        Aggregate::Token => 1.0,
    };
    all.iter().map(|(t, advantage)| (t.as_ref(), advantage * scale(t))).collect()
}

/// Adds up the steps of a batch, and holds the optimiser to the count.
struct Tally<'a> {
    /// Episodes that this batch uses, and whether a step with them was finite.
    new: BTreeMap<EpisodeId, (&'a Trajectory, bool)>,
    steps: u64,
    tokens: u64,
    /// Weighted by tokens.
    sums: Stats,
}

impl<'a> Tally<'a> {
    fn new(new: impl Iterator<Item = &'a Trajectory>) -> Tally<'a> {
        Tally { new: new.map(|t| (t.id, (t, false))).collect(), steps: 0, tokens: 0, sums: Stats::default() }
    }

    /// One step of the optimiser over these episodes.
    fn step(&mut self, given: &[(&Trajectory, f32)], step: impl FnOnce(&[Sequence]) -> Result<Stats, String>) -> Result<(), String> {
        let sequences: Vec<Sequence> = given.iter().flat_map(|(t, advantage)| t.sequences(*advantage)).collect();
        let ours: u64 = sequences.iter().map(Sequence::trained_tokens).sum();
        let counted: u64 = given.iter().map(|(t, _)| t.counts.trained).sum();
        if ours != counted {
            return Err(format!("the batch's sequences hold {ours} trained tokens, its episodes {counted}"));
        }
        if ours == 0 {
            return Ok(());
        }
        let stats = step(&sequences)?;
        if stats.tokens != ours {
            return Err(format!("the optimiser trained {} tokens of {ours}; trained must be sampled minus masked", stats.tokens));
        }
        if !stats.finite {
            tracing::warn!("a step was not finite and was not taken");
            return Ok(());
        }
        for (trajectory, _) in given {
            if let Some((_, finite)) = self.new.get_mut(&trajectory.id) {
                *finite = true;
            }
        }
        let weight = ours as f64;
        self.steps += 1;
        self.tokens += ours;
        self.sums.loss += stats.loss * weight;
        self.sums.entropy += stats.entropy * weight;
        self.sums.kl_old += stats.kl_old * weight;
        self.sums.clip_fraction += stats.clip_fraction * weight;
        self.sums.grad_norm += stats.grad_norm * weight;
        Ok(())
    }

    fn outcome(self) -> Outcome {
        let all = self.tokens.max(1) as f64;
        let (mut uses, mut counts) = (vec![], Counts::default());
        for (id, (trajectory, finite)) in self.new {
            let empty = trajectory.counts.trained == 0;
            uses.push((id, if finite || empty { Use::Trained } else { Use::NonFinite }));
            if finite || empty {
                counts.add(&trajectory.counts);
            }
        }
        Outcome {
            uses,
            steps: self.steps,
            counts,
            passed_tokens: self.tokens,
            loss: self.sums.loss / all,
            entropy: self.sums.entropy / all,
            kl_old: self.sums.kl_old / all,
            clip_fraction: self.sums.clip_fraction / all,
            grad_norm: self.sums.grad_norm / all,
            ..Outcome::default()
        }
    }
}

/// Advantages of a group's members, ready for [`Batch::Reinforce`].
pub fn with_advantages(group: groups::Group, advantages: &[f32]) -> Vec<(Arc<Trajectory>, f32)> {
    group.members.into_values().zip(advantages).map(|(member, advantage)| (Arc::new(member.trajectory), *advantage)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Counts, Lesson};
    use schemas::Split;

    #[test]
    fn episodes_weigh_the_same_whatever_their_length() {
        let episode = |number, trained| {
            let id = EpisodeId { split: Split::Train, number };
            let counts = Counts { sampled: trained, trained, ..Counts::default() };
            Arc::new(Trajectory { id, lesson: Lesson::Sampled, segments: vec![], counts, frames: vec![] })
        };
        let all = [(episode(0, 10), 1.0), (episode(1, 90), -1.0)];
        let loss = |given: &[(&Trajectory, f32)]| given.iter().map(|(t, a)| t.counts.trained as f32 * a).sum::<f32>();
        assert!(loss(&weigh(&all, Aggregate::Episode)).abs() < 1e-4, "a success and a failure are even");
        assert!(loss(&weigh(&all, Aggregate::Token)) < -70.0, "the long failure outweighs the success");
    }
}
