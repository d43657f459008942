//! A stepper on the bench: a corridor for a world, a hand-driven renderer and generator, a clock that is set.

use crate::{Options, Stepper};
use context::{Context, ImageSettings, Reply};
use kit::{Delivered, Delivery, Identity, Input, Now, Output, Stage, Ticket};
use schemas::pipeline::Pipeline;
use schemas::{
    Completion, End, Episode, EpisodeId, Message, Mode, Observation, PolicyPin, Presence, Segment, Source, Split, Status, decode, encode,
    subjects,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use worlds::{Acted, ActionName, Kind, Picture, Plan, RewardBounds, Scene, Standing, Task, World};

/// A corridor of so many cells: `step` until the end, then `done`.
struct Corridor {
    length: u64,
    at: u64,
    acted: u64,
    pictures: bool,
    over: bool,
}

impl World for Corridor {
    fn observe(&self) -> String {
        let shown = if self.pictures { "<image> <image> " } else { "" };
        format!("{shown}cell {} of {}", self.at % 10, self.length % 10)
    }
    fn pictures(&self) -> Vec<Picture> {
        let picture = |camera: &'static str, shade: u8| Picture { camera, width: 56, height: 28, rgb: vec![shade; 3 * 56 * 28] };
        if self.pictures { vec![picture("navigation", self.acted as u8), picture("manipulation", 128 + self.acted as u8)] } else { vec![] }
    }
    fn instruction(&self) -> String {
        "walk to the end".into()
    }
    fn act(&mut self, action: &str) -> Result<Acted, String> {
        self.acted += 1;
        match action {
            "step" => self.at += 1,
            "jam" => return Ok(Acted { worked: false, ..Acted::default() }),
            "boom" => return Err("the floor gave way".into()),
            "done" => self.over = true,
            _ => {}
        }
        let won = self.over && self.at >= self.length;
        Ok(Acted { worked: true, reward: if won { 1.0 } else { 0.0 }, over: self.over })
    }
    fn expert(&mut self, actions: usize) -> Plan {
        let steps = (self.length.saturating_sub(self.at)).min(actions as u64);
        let mut plan = vec!["step".to_string(); steps as usize];
        if plan.len() < actions {
            plan.push("done".into());
        }
        Plan { actions: plan, ..Plan::default() }
    }
    fn standing(&self) -> Standing {
        let success = self.over && self.at >= self.length;
        Standing { success, lenient: success, progress: (self.at as f32 / self.length.max(1) as f32).min(1.0), milestones: vec![] }
    }
    fn state_key(&self) -> u64 {
        self.at
    }
    fn memory(&self, max_chars: usize) -> String {
        format!("walked {} cells", self.at).chars().take(max_chars).collect()
    }
}

const ACTIONS: [ActionName; 5] = [
    ActionName { name: "step", aliases: &["s"], ends_reply: false },
    ActionName { name: "jam", aliases: &[], ends_reply: false },
    ActionName { name: "grab", aliases: &[], ends_reply: true },
    ActionName { name: "boom", aliases: &[], ends_reply: false },
    ActionName { name: "done", aliases: &[], ends_reply: true },
];

struct Corridors {
    pictures: bool,
}

impl Kind for Corridors {
    fn name(&self) -> &'static str {
        "corridor"
    }
    fn actions(&self) -> &[ActionName] {
        &ACTIONS
    }
    fn rules(&self) -> String {
        "You are in a corridor.".into()
    }
    fn reward_bounds(&self, _: u32) -> RewardBounds {
        RewardBounds { worst_success: 1.0, best_failure: 0.0 }
    }
    fn sample(&self, seed: u64, _: Option<&str>) -> Result<Task, String> {
        Ok(Task { seed, ..Task::default() })
    }
    fn held_out(&self, number: u64) -> Result<Task, String> {
        self.sample(number, None)
    }
    fn buckets(&self) -> Vec<String> {
        vec![]
    }
    fn scene(&self, _: &Task) -> Result<Option<Scene>, String> {
        Ok(None)
    }
    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        if task.json == "broken" {
            return Err("a broken task".into());
        }
        let longer = scene.map_or(0, |s| s.len() as u64);
        Ok(Box::new(Corridor { length: task.seed + longer, at: 0, acted: 0, pictures: self.pictures, over: false }))
    }
    fn corpus(&self, lines: usize) -> Vec<String> {
        (0..lines).map(|i| format!("cell {} of {} walk to the end walked cells", i % 10, (i * 7) % 10)).collect()
    }
}

pub(super) fn corridors(pictures: bool) -> Arc<dyn Kind> {
    Arc::new(Corridors { pictures })
}

/// A small tokenizer of the corridor's words.
pub(super) fn context() -> Context {
    let actions: Vec<String> = ACTIONS.iter().map(|a| a.name.to_string()).collect();
    let (tokenizer, config) = context::train_small(&corridors(false).corpus(200), &actions, 400).unwrap();
    Context::from_files(&tokenizer, &config, ImageSettings::default()).unwrap()
}

pub(super) fn pipeline(rules: &str) -> Pipeline {
    let head = "name = \"bench\"\nseed = 5\nschedule = []\nworld = { name = \"corridor\" }\n";
    Pipeline::parse(&format!("{head}{rules}")).unwrap()
}

/// What was sampled in a turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampled {
    pub(super) ids: Vec<u32>,
    pub(super) logprobs: Vec<f32>,
}

pub(super) struct Bench {
    pub(super) stepper: Stepper,
    pub(super) context: Context,
    pub(super) now: Now,
    pub(super) sampled: BTreeMap<(EpisodeId, u32), Sampled>,
    deliveries: u64,
    published: u64,
}

pub(super) fn identity(pipeline: &Pipeline) -> Identity {
    Identity {
        run: "r".into(),
        id: "env-stepper-1".into(),
        host: "h".into(),
        pid: 1,
        epoch: 0,
        since_us: 0,
        folder: "runs/r".into(),
        pipeline: pipeline.clone(),
    }
}

pub(super) fn episode(number: u64, length: u64) -> Episode {
    Episode {
        id: EpisodeId { split: Split::Train, number },
        group: number,
        member: 0,
        group_size: 1,
        world: "corridor".into(),
        seed: length,
        mode: Mode::Policy,
        policy: PolicyPin::Latest,
        task: vec![],
        scene: None,
        bucket: "b".into(),
        expert_length: length as u32 + 1,
        validates: 0,
        handed_back: 0,
        epoch: 1,
        traceparent: String::new(),
    }
}

impl Bench {
    pub(super) fn new(rules: &str) -> Bench {
        Bench::with(pipeline(rules), Options { slots: 4, ..Options::default() })
    }

    pub(super) fn with(pipeline: Pipeline, options: Options) -> Bench {
        let kind = corridors(pipeline.world.pictures);
        let context = context();
        let stepper = Stepper::new(&identity(&pipeline), kind, options);
        Bench { stepper, context, now: Now::default(), sampled: BTreeMap::new(), deliveries: 0, published: 0 }
    }

    /// A bench with a live renderer and generator, started.
    pub(super) fn ready(rules: &str) -> Bench {
        let mut bench = Bench::new(rules);
        bench.give(Input::Started);
        bench.present("prompt-renderer", "prompt-renderer-1");
        bench.present("generator", "g1");
        bench
    }

    pub(super) fn give(&mut self, input: Input) -> Vec<Output> {
        self.stepper.step(input, self.now)
    }

    pub(super) fn present(&mut self, stage: &str, id: &str) -> Vec<Output> {
        let presence = Presence { stage: stage.into(), id: id.into(), ..Presence::default() };
        self.give(Input::Presence(Box::new(presence)))
    }

    /// Lets time pass in ticks of a tenth of a second.
    pub(super) fn pass_ms(&mut self, ms: u64) -> Vec<Output> {
        let mut out = vec![];
        for _ in 0..ms / 100 {
            self.now.mono_ms += 100;
            self.now.unix_us += 100_000;
            out.extend(self.give(Input::Tick));
        }
        out
    }

    pub(super) fn deliver(&mut self, episode: &Episode, count: u64) -> Vec<Output> {
        self.deliver_bytes(episode.id.split, encode(episode), count)
    }

    pub(super) fn deliver_bytes(&mut self, split: Split, payload: Vec<u8>, count: u64) -> Vec<Output> {
        self.deliveries += 1;
        let delivery = Delivered {
            delivery: Delivery(self.deliveries),
            count,
            sequence: self.deliveries,
            durable: kit::Durable { stream: subjects::Stream::Episodes, name: subjects::episodes_durable("corridor", split) },
        };
        let subject = subjects::episodes("r", "corridor", split);
        self.give(Input::Message { subject, headers: BTreeMap::new(), payload, delivery: Some(delivery) })
    }

    pub(super) fn message<M: Message>(&mut self, subject: String, message: &M) -> Vec<Output> {
        self.give(Input::Message { subject, headers: BTreeMap::new(), payload: encode(message), delivery: None })
    }

    pub(super) fn complete(&mut self, completion: &Completion) -> Vec<Output> {
        self.message(subjects::completions("r", "env-stepper-1"), completion)
    }

    /// As [`render`], and keeps what was sampled.
    pub(super) fn reply(&mut self, seen: &Observation, text: &str) -> Completion {
        let (completion, sampled) = render(&self.context, seen, text);
        self.sampled.insert((seen.at.id, seen.at.turn), sampled);
        completion
    }

    pub(super) fn status(seen: &Observation, status: Status) -> Completion {
        Completion { at: seen.at.clone(), generator: seen.generator.clone(), status, segment: None, text: String::new(), trail: vec![] }
    }

    /// Plays on from these outputs until nothing is asked for: each observation is answered by `policy`, each end stored.
    pub(super) fn play(&mut self, first: Vec<Output>, mut policy: impl FnMut(&Observation) -> String) -> Vec<End> {
        let (mut ends, mut waiting) = (vec![], first);
        while let Some(output) = (!waiting.is_empty()).then(|| waiting.remove(0)) {
            match output {
                Output::Publish { payload, .. } => {
                    let seen: Observation = decode(&payload).unwrap();
                    let text = if seen.expert_speaks { seen.expert_reply.clone().unwrap() } else { policy(&seen) };
                    let completion = self.reply(&seen, &text);
                    waiting.extend(self.complete(&completion));
                }
                Output::PublishDurable { ticket, payload, .. } => {
                    ends.extend(decode::<End>(&payload).ok());
                    waiting.extend(self.stored(ticket));
                }
                _ => {}
            }
        }
        ends
    }

    pub(super) fn stored(&mut self, ticket: Ticket) -> Vec<Output> {
        self.published += 1;
        self.give(Input::Published { ticket, result: Ok(self.published) })
    }

    /// Every sampled token is trained once, as it was sampled; what is copied is masked and the same; segments grow only.
    pub(super) fn check_segments(&self, end: &End) {
        let mut trained: BTreeMap<u32, Sampled> = BTreeMap::new();
        for (index, segment) in end.segments.iter().enumerate() {
            assert_eq!(segment.number as usize, index);
            let mut logprobs = segment.logprobs.0.iter().copied();
            for span in &segment.turns {
                let ids = segment.tokens.0[span.reply as usize..span.end as usize].to_vec();
                let was = &self.sampled[&(end.episode.id, span.turn)];
                assert_eq!(ids, was.ids, "segment {index}, turn {}", span.turn);
                if span.trainable {
                    let logprobs: Vec<f32> = logprobs.by_ref().take(ids.len()).collect();
                    let again = trained.insert(span.turn, Sampled { ids, logprobs });
                    assert!(again.is_none(), "turn {} is trained twice", span.turn);
                }
            }
            assert_eq!(logprobs.next(), None);
            let turns: Vec<u32> = segment.turns.iter().map(|t| t.turn).collect();
            assert!(turns.windows(2).all(|w| w[1] == w[0] + 1), "{turns:?}");
        }
        assert_eq!(trained.len(), end.turns.len());
        for (turn, trained) in trained {
            assert_eq!(trained, self.sampled[&(end.episode.id, turn)]);
        }
    }
}

/// Renders an observation as the renderer does, and replies as a generator that samples this text does.
pub(super) fn render(context: &Context, seen: &Observation, text: &str) -> (Completion, Sampled) {
    let mut segment = match &seen.segment {
        Some(segment) => segment.clone(),
        None => context.open(seen.head.as_ref().unwrap(), seen.segment_number).unwrap(),
    };
    context.push_turn(&mut segment, &seen.text, &seen.frames).unwrap();
    let mut ids = context.reply_ids(text);
    let most = seen.sampling.max_tokens as usize;
    let cut = ids.len() > most && !seen.expert_speaks;
    if cut {
        ids.truncate(most);
    }
    let source = if seen.expert_speaks { Source::Expert } else { Source::Policy };
    let sampled = source == Source::Policy;
    let logprobs: Vec<f32> = (0..ids.len()).map(|i| -(seen.at.turn as f32) - i as f32 / 64.0).collect();
    let logprobs = if sampled { logprobs } else { vec![] };
    let kept = Sampled { ids: ids.clone(), logprobs: logprobs.clone() };
    let reply = Reply {
        turn: seen.at.turn,
        versions: if sampled { vec![(3, ids.len() as u32)] } else { vec![] },
        logprobs,
        source,
        cut,
        trainable: true,
        ids,
    };
    let ids = reply.ids.clone();
    context.push_reply(&mut segment, reply).unwrap();
    let generator = if seen.generator.is_empty() { "expert".to_string() } else { seen.generator.clone() };
    let text = context.tokenizer.decode(&ids).trim().to_string();
    let completion = Completion { at: seen.at.clone(), generator, status: Status::Done, segment: Some(segment), text, trail: vec![] };
    (completion, kept)
}

pub(super) fn observations(out: &[Output]) -> Vec<Observation> {
    out.iter().filter_map(|o| if let Output::Publish { payload, .. } = o { decode(payload).ok() } else { None }).collect()
}

pub(super) fn ends(out: &[Output]) -> Vec<(Ticket, End)> {
    let end = |o: &Output| match o {
        Output::PublishDurable { ticket, payload, .. } => decode(payload).ok().map(|end| (*ticket, end)),
        _ => None,
    };
    out.iter().filter_map(end).collect()
}

pub(super) fn is_prefix(shorter: &Segment, longer: &Segment) -> bool {
    longer.tokens.0.starts_with(&shorter.tokens.0) && longer.turns.starts_with(&shorter.turns) && longer.images.starts_with(&shorter.images)
}
