//! Which episodes come next, and what an order's episodes are.
//!
//! Both are pure: an order follows from the state, the grant and the pipeline, and its episodes follow from the order and
//! the pipeline's seed, so that an order that is read back after a crash gives the same episodes byte for byte.

use crate::state::{Order, State};
use schemas::pipeline::{Phase, Pipeline};
use schemas::{Episode, EpisodeId, Grant, Mode, PolicyPin, SceneRef, Split, digest_of, seed_of};
use worlds::{Kind, Task};

/// Expert and validation episodes of one order.
const AT_ONCE: u64 = 8;
/// Other seeds that are tried where a group's own gives no task.
const SEEDS_TRIED: u64 = 8;

/// What planning depends on beside the state and the grant.
pub(crate) struct Rules {
    pub(crate) pipeline: Pipeline,
    pub(crate) buckets: Vec<String>,
    /// Episodes of a split that may be on their way at once.
    outstanding: u64,
    /// In deterministic runs the curriculum of a group knows the groups that lie at least this far back.
    pub(crate) lag: u64,
    expert_mode: Mode,
}

impl Rules {
    pub(crate) fn new(pipeline: &Pipeline, buckets: Vec<String>) -> Rules {
        let steppers = u64::from(pipeline.stages.env_steppers.max(1));
        let outstanding = (8 * steppers * u64::from(pipeline.stages.slots)).max(1024);
        let grouped = pipeline.schedule.iter().filter(|p| matches!(p.phase, Phase::Dagger | Phase::Grpo));
        let lag = grouped.map(|p| u64::from(p.batch)).max().unwrap_or(1).max(1);
        let first = pipeline.schedule.iter().find(|p| matches!(p.phase, Phase::Imitation | Phase::Format));
        let expert_mode = if first.is_some_and(|p| p.phase == Phase::Format) { Mode::Format } else { Mode::Expert };
        Rules { pipeline: pipeline.clone(), buckets, outstanding, lag, expert_mode }
    }

    fn room(&self, state: &State, split: Split) -> u64 {
        self.outstanding.saturating_sub(state.outstanding(split))
    }

    /// What to order next, if anything may be: validation first, then expert episodes, then a training group.
    pub(crate) fn next(&self, state: &State, grant: &Grant, epoch: u64) -> Option<Order> {
        self.next_pass(state, grant, epoch).or_else(|| {
            if grant.finished {
                return None;
            }
            self.next_expert(state, grant, epoch).or_else(|| self.next_group(state, grant, epoch))
        })
    }

    fn next_pass(&self, state: &State, grant: &Grant, epoch: u64) -> Option<Order> {
        let size = self.pipeline.episodes.validation;
        let room = self.room(state, Split::Val);
        if size == 0 || room == 0 {
            return None;
        }
        let (pass, begun) = (state.next_val / size, state.next_val % size);
        let version = match state.passes.get(pass as usize) {
            Some(version) => *version,
            None => *grant.validate.iter().find(|v| !state.passes.contains(v))?,
        };
        let count = AT_ONCE.min(size - begun).min(room) as u32;
        Some(Order::Pass { first: state.next_val, count, version, epoch })
    }

    fn next_expert(&self, state: &State, grant: &Grant, epoch: u64) -> Option<Order> {
        if self.pipeline.offline.is_some() {
            // They come from a store.
            return None;
        }
        let left = grant.upto_expert.saturating_sub(state.next_expert).min(self.room(state, Split::Expert));
        let count = left.min(AT_ONCE) as u32;
        (count > 0).then_some(Order::Expert { first: state.next_expert, count, mode: self.expert_mode, epoch })
    }

    fn next_group(&self, state: &State, grant: &Grant, epoch: u64) -> Option<Order> {
        let group = state.next_group;
        let deterministic = self.pipeline.deterministic;
        if group >= grant.upto_group || (deterministic && state.settled != self.known_to(group)) {
            return None;
        }
        let episodes = &self.pipeline.episodes;
        let mode = if group < grant.dagger_below { Mode::Dagger } else { Mode::Policy };
        let bucket = if episodes.curriculum { state.curriculum.choose(&self.buckets, self.pipeline.seed, group) } else { None };
        let hard = bucket.is_some_and(|b| state.curriculum.is_hard(b));
        let size = match mode {
            Mode::Dagger => 1,
            _ if hard => episodes.group_size_hard.max(episodes.group_size),
            _ => episodes.group_size,
        };
        if self.room(state, Split::Train) < u64::from(size) && state.outstanding(Split::Train) > 0 {
            return None;
        }
        let policy = if deterministic {
            PolicyPin::Exactly(grant.version)
        } else {
            PolicyPin::AtLeast(grant.version.saturating_sub(u64::from(self.pipeline.max_staleness())))
        };
        let bucket = bucket.map(str::to_string);
        Some(Order::Group { group, first: state.next_train, size, bucket, mode, policy, epoch })
    }

    /// In deterministic runs: the curriculum of this group knows exactly the groups below the result. By the time that a
    /// group is granted, all groups at least a batch before it have been used, and so have ended.
    pub(crate) fn known_to(&self, group: u64) -> u64 {
        (group + 1).saturating_sub(self.lag)
    }

    /// The episodes of an order, with the scenes that they are played in.
    ///
    /// # Errors
    /// The world has no task for it: a line for people.
    pub(crate) fn episodes(&self, kind: &dyn Kind, order: &Order) -> Result<Vec<Planned>, String> {
        match order {
            Order::Group { group, first, size, bucket, mode, policy, epoch } => {
                let task = self.sample(kind, Split::Train, *group, bucket.as_deref())?;
                let planned = self.planned(kind, EpisodeId { split: Split::Train, number: *first }, *group, &task)?;
                let member = |member: u32| {
                    let mut planned = planned.clone();
                    planned.scene = planned.scene.filter(|_| member == 0);
                    let id = EpisodeId { split: Split::Train, number: first + u64::from(member) };
                    let traceparent = traceparent(self.pipeline.seed, id);
                    planned.episode = Episode {
                        id,
                        member,
                        group_size: *size,
                        mode: *mode,
                        policy: *policy,
                        epoch: *epoch,
                        traceparent,
                        ..planned.episode
                    };
                    planned
                };
                Ok((0..*size).map(member).collect())
            }
            Order::Expert { first, count, mode, epoch } => (*first..first + u64::from(*count))
                .map(|number| {
                    let task = self.sample(kind, Split::Expert, number, None)?;
                    let mut planned = self.planned(kind, EpisodeId { split: Split::Expert, number }, number, &task)?;
                    planned.episode = Episode { mode: *mode, epoch: *epoch, ..planned.episode };
                    Ok(planned)
                })
                .collect(),
            Order::Pass { first, count, version, epoch } => (*first..first + u64::from(*count))
                .map(|number| {
                    let task = kind.held_out(number % self.pipeline.episodes.validation.max(1))?;
                    let mut planned = self.planned(kind, EpisodeId { split: Split::Val, number }, number, &task)?;
                    let policy = PolicyPin::Exactly(*version);
                    planned.episode = Episode { policy, validates: *version, epoch: *epoch, ..planned.episode };
                    Ok(planned)
                })
                .collect(),
        }
    }

    /// The task of a group: of its own seed in its bucket, or in any, or else of the next seed that gives one.
    fn sample(&self, kind: &dyn Kind, split: Split, group: u64, bucket: Option<&str>) -> Result<Task, String> {
        let seed = seed_of(self.pipeline.seed, &[split.as_str().as_bytes(), b"group", &group.to_le_bytes()]);
        let mut first = None;
        for again in 0..SEEDS_TRIED {
            let seed = if again == 0 { seed } else { seed_of(seed, &[b"again", &again.to_le_bytes()]) };
            match kind.sample(seed, bucket).or_else(|error| if bucket.is_some() { kind.sample(seed, None) } else { Err(error) }) {
                Ok(task) => return Ok(task),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(format!("no task for {split} group {group}: {}", first.unwrap_or_default()))
    }

    fn planned(&self, kind: &dyn Kind, id: EpisodeId, group: u64, task: &Task) -> Result<Planned, String> {
        let scene = kind.scene(task)?.map(|scene| (SceneRef { digest: digest_of(&scene.bytes), origin: scene.origin }, scene.bytes));
        let episode = Episode {
            id,
            group,
            member: 0,
            group_size: 1,
            world: self.pipeline.world.name.clone(),
            seed: task.seed,
            mode: Mode::Policy,
            policy: PolicyPin::Latest,
            task: task.json.clone().into_bytes(),
            scene: scene.as_ref().map(|(scene, _)| scene.clone()),
            bucket: task.bucket.clone(),
            expert_length: task.expert_length,
            validates: 0,
            handed_back: 0,
            epoch: 0,
            traceparent: traceparent(self.pipeline.seed, id),
        };
        Ok(Planned { episode, scene: scene.map(|(_, bytes)| bytes) })
    }
}

/// An episode to publish, and the bytes of its scene where it is the first of its order to need them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Planned {
    pub(crate) episode: Episode,
    pub(crate) scene: Option<Vec<u8>>,
}

/// A W3C trace context that follows from the episode's name.
fn traceparent(pipeline_seed: u64, id: EpisodeId) -> String {
    let part = |what: &[u8]| seed_of(pipeline_seed, &[what, id.to_string().as_bytes()]);
    // All zeros is no valid id; the lowest bit is set to rule it out.
    format!("00-{:016x}{:016x}-{:016x}-01", part(b"trace"), part(b"trace low") | 1, part(b"span") | 1)
}

/// Books an order into the state: its numbers are taken, its group is open, it is pending.
pub(crate) fn book(state: &mut State, order: &Order) {
    let count = u64::from(order.len());
    match order {
        Order::Group { group, size, bucket, .. } => {
            state.next_group = group + 1;
            state.next_train += count;
            let open = crate::state::Open { size: *size, bucket: bucket.clone().unwrap_or_default(), ..Default::default() };
            state.open.insert(*group, open);
        }
        Order::Expert { .. } => state.next_expert += count,
        Order::Pass { version, .. } => {
            state.next_val += count;
            if !state.passes.contains(version) {
                state.passes.push(*version);
            }
        }
    }
    state.pending.push(order.clone());
}
