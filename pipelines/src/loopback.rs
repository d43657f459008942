//! The expert's episodes through the real stepper and the real renderer, in this process and without a broker.
//!
//! `validate` asks with it whether a pipeline's prompt, parser and limits let the expert through, `eval` judges the expert
//! with it. The two stages' own logic runs; only the messages between them take a short way.

use anyhow::{Result, bail};
use env_stepper::Stepper;
use kit::stage::{Delivered, Delivery, Durable, Identity, Input, Now, Output, Stage};
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream};
use schemas::{End, Episode, EpisodeId, Mode, PolicyPin, SceneRef, Split};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use worlds::{Kind, Task};

/// Rollouts side by side.
const SLOTS: usize = 16;
const RUN: &str = "loopback";
/// Inputs that an episode may take on average before the loop is called stuck.
const INPUTS_PER_EPISODE: usize = 200_000;

/// Runs the expert on the tasks and returns the ends, in the order of the tasks.
///
/// # Errors
/// A task that cannot be started, or a stage that gives up.
pub(crate) fn run_expert(pipeline: &Pipeline, kind: &Arc<dyn Kind>, split: Split, tasks: &[Task]) -> Result<Vec<End>> {
    let mut ordered = Vec::new();
    for (number, task) in tasks.iter().enumerate() {
        let scene = kind.scene(task).map_err(anyhow::Error::msg)?;
        let named = scene.as_ref().map(|scene| SceneRef { digest: schemas::digest_of(&scene.bytes), origin: scene.origin.clone() });
        ordered.push((episode(pipeline, split, number as u64, task, named), scene.map(|scene| scene.bytes)));
    }
    Loopback::new(pipeline, kind.clone())?.play(ordered)
}

fn episode(pipeline: &Pipeline, split: Split, number: u64, task: &Task, scene: Option<SceneRef>) -> Episode {
    Episode {
        id: EpisodeId { split, number },
        group: number,
        member: 0,
        group_size: 1,
        world: pipeline.world.name.clone(),
        seed: task.seed,
        mode: Mode::Expert,
        policy: PolicyPin::Latest,
        task: task.json.clone().into_bytes(),
        scene,
        bucket: task.bucket.clone(),
        expert_length: task.expert_length,
        validates: 0,
        handed_back: 0,
        epoch: 0,
        traceparent: String::new(),
    }
}

/// A stepper and a renderer that answer each other.
pub(crate) struct Loopback {
    stepper: Box<dyn Stage>,
    renderer: Box<dyn Stage>,
    objects: BTreeMap<String, Vec<u8>>,
    /// `(to the renderer, input)`, oldest first.
    inputs: VecDeque<(bool, Input)>,
    ends: BTreeMap<u64, End>,
    sequence: u64,
    mono_ms: u64,
}

impl Loopback {
    /// # Errors
    /// A policy folder without a tokenizer.
    pub(crate) fn new(pipeline: &Pipeline, kind: Arc<dyn Kind>) -> Result<Loopback> {
        let files = crate::artifacts::prepare(pipeline, kind.as_ref())?;
        let objects = files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        // Nobody learns here: ends bring the pictures that are kept and no others.
        let mut pipeline = pipeline.clone();
        pipeline.learner.idle = true;
        let identity = |id: &str| Identity {
            run: RUN.into(),
            id: id.into(),
            host: "loopback".into(),
            pid: 0,
            epoch: 0,
            since_us: 0,
            folder: std::path::PathBuf::from("."),
            pipeline: pipeline.clone(),
        };
        let stepper: Box<dyn Stage> =
            Box::new(Stepper::new(&identity("env-stepper-1"), kind, env_stepper::Options { slots: SLOTS as u32, ..Default::default() }));
        let renderer: Box<dyn Stage> = Box::new(prompt_renderer::Renderer::new(identity("prompt-renderer-1")));
        let inputs = VecDeque::from([(true, Input::Started), (false, Input::Started)]);
        Ok(Loopback { stepper, renderer, objects, inputs, ends: BTreeMap::new(), sequence: 0, mono_ms: 0 })
    }

    /// Plays episodes of one split, each with its compiled scene where it has one, and gives their ends by number.
    ///
    /// # Errors
    /// A stage that gives up, or episodes that do not end.
    pub(crate) fn play(&mut self, ordered: Vec<(Episode, Option<Vec<u8>>)>) -> Result<Vec<End>> {
        self.objects.retain(|name, _| !name.starts_with("scene-"));
        let mut episodes = VecDeque::new();
        for (episode, scene) in ordered {
            if let (Some(named), Some(bytes)) = (&episode.scene, scene) {
                self.objects.insert(format!("scene-{}", named.digest), bytes);
            }
            episodes.push_back(episode);
        }
        let count = episodes.len();
        for _ in 0..count.max(1) * INPUTS_PER_EPISODE {
            if self.ends.len() == count {
                return Ok(std::mem::take(&mut self.ends).into_values().collect());
            }
            let started = count - episodes.len() - self.ends.len();
            if started < SLOTS
                && let Some(episode) = episodes.pop_front()
            {
                let input = self.deliver(&episode);
                self.inputs.push_back((false, input));
                continue;
            }
            let (to_renderer, input) = self.inputs.pop_front().unwrap_or_else(|| {
                self.mono_ms += 100;
                (false, Input::Tick)
            });
            let now = Now { unix_us: self.mono_ms * 1000, mono_ms: self.mono_ms };
            let stage = if to_renderer { &mut self.renderer } else { &mut self.stepper };
            for output in stage.step(input, now) {
                self.handle(to_renderer, output)?;
            }
        }
        bail!("the expert's episodes did not end: {} of {count}", self.ends.len())
    }

    fn deliver(&mut self, episode: &Episode) -> Input {
        self.sequence += 1;
        let name = subjects::episodes_durable(&episode.world, episode.id.split);
        Input::Message {
            subject: subjects::episodes(RUN, &episode.world, episode.id.split),
            headers: BTreeMap::new(),
            payload: schemas::encode(episode),
            delivery: Some(Delivered {
                delivery: Delivery(self.sequence),
                count: 1,
                sequence: self.sequence,
                durable: Durable { stream: Stream::Episodes, name },
            }),
        }
    }

    fn handle(&mut self, from_renderer: bool, output: Output) -> Result<()> {
        match output {
            Output::Publish { subject, payload } => {
                let to_renderer = subject == subjects::observations(RUN);
                let input = Input::Message { subject, headers: BTreeMap::new(), payload, delivery: None };
                self.inputs.push_back((to_renderer, input));
            }
            Output::PublishDurable { ticket, subject, payload, .. } => {
                if subject.starts_with(&format!("errand.{RUN}.ends.")) {
                    let end: End = schemas::decode(&payload)?;
                    self.ends.insert(end.id().number, end);
                }
                self.sequence += 1;
                self.inputs.push_back((from_renderer, Input::Published { ticket, result: Ok(self.sequence) }));
            }
            Output::GetObject { ticket, name } => {
                let bytes = self.objects.get(&name).cloned();
                self.inputs.push_back((from_renderer, Input::Object { ticket, name, bytes }));
            }
            Output::Work { ticket, work } => self.inputs.push_back((from_renderer, Input::Worked { ticket, result: work.run() })),
            Output::Exit { code, message } if code != 0 => bail!("{message}"),
            Output::Reject { reason, .. } => bail!("{reason}"),
            _ => {}
        }
        Ok(())
    }
}
