//! A broker, a world that plays what is granted, and an optimiser that remembers what it was shown.

use crate::optimiser::{Digests, Files, Maker, Optimiser, Reinforce, Stats};
use crate::tokens::Sequence;
use crate::{Learner, checkpoint, work};
use kit::stage::{Delivered, Delivery, Durable, Identity, Input, Now, Output, Stage, Ticket};
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream};
use schemas::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

// --- The optimiser -----------------------------------------------------------------------------------------------------

/// How often each episode was trained. The weights are the record.
#[derive(Clone, Default)]
pub(super) struct Counting {
    pub(super) seen: BTreeMap<u32, u32>,
    /// Tokens too few that it says it trained, and whether its steps are finite.
    pub(super) short: u64,
    pub(super) finite: bool,
}

/// Every segment's first token says which episode it is of.
pub(super) fn code(id: EpisodeId) -> u32 {
    let split = match id.split {
        Split::Train => 1_000_000,
        Split::Val => 2_000_000,
        Split::Expert => 3_000_000,
    };
    split + id.number as u32
}

impl Counting {
    fn take(&mut self, sequences: &[Sequence]) -> Stats {
        let codes: BTreeSet<u32> = sequences.iter().map(|s| s.tokens[0]).collect();
        for code in codes.into_iter().filter(|_| self.finite) {
            *self.seen.entry(code).or_insert(0) += 1;
        }
        let tokens = sequences.iter().map(Sequence::trained_tokens).sum::<u64>() - self.short;
        Stats { loss: 0.5, tokens, finite: self.finite, ..Stats::default() }
    }

    fn text(&self) -> String {
        self.seen.iter().map(|(code, count)| format!("{code} {count}\n")).collect()
    }

    fn parse(text: &str) -> BTreeMap<u32, u32> {
        let number = |text: &str| text.parse().unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (number(a), number(b))).collect()
    }
}

impl Optimiser for Counting {
    fn imitate(&mut self, sequences: &[Sequence], _: f64) -> Result<Stats, String> {
        Ok(self.take(sequences))
    }
    fn imitation_loss(&mut self, sequences: &[Sequence]) -> Result<f64, String> {
        Ok(1.0 / (1.0 + sequences.len() as f64))
    }
    fn reinforce(&mut self, sequences: &[Sequence], _: &Reinforce) -> Result<Stats, String> {
        assert!(sequences.iter().all(|s| s.old_logprobs.len() as u64 == s.trained_tokens()));
        Ok(self.take(sequences))
    }
    fn anchor(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn save(&mut self, folder: &Path) -> std::io::Result<()> {
        std::fs::write(folder.join("weights"), self.text())
    }
    fn weights(&mut self) -> Vec<u8> {
        self.text().into_bytes()
    }
}

#[derive(Clone, Default)]
pub(super) struct Counters {
    pub(super) short: u64,
    pub(super) not_finite: bool,
}

impl Maker for Counters {
    type O = Counting;
    fn create(&mut self, _: &Files) -> Result<(Counting, Digests), String> {
        Ok((Counting { seen: BTreeMap::new(), short: self.short, finite: !self.not_finite }, Digests::default()))
    }
    fn restore(&mut self, files: &Files, folder: &Path, _: Option<&Path>) -> Result<(Counting, Digests), String> {
        let text = std::fs::read_to_string(folder.join("weights")).map_err(|e| e.to_string())?;
        let (counting, digests) = self.create(files)?;
        Ok((Counting { seen: Counting::parse(&text), ..counting }, digests))
    }
}

// --- The world ---------------------------------------------------------------------------------------------------------

/// How the world answers a grant.
#[derive(Clone)]
pub(super) struct World {
    pub(super) group_size: u32,
    /// The return of a member.
    pub(super) reward: fn(u64, u32) -> f32,
    pub(super) reason: fn(EpisodeId) -> EndReason,
    /// Members of a group end in this order of groups: backwards makes late groups end first.
    pub(super) backwards: bool,
}

impl Default for World {
    fn default() -> Self {
        let reward = |group: u64, member: u32| if (group + u64::from(member)).is_multiple_of(3) { 10.0 } else { 0.0 };
        World { group_size: 3, reward, reason: |_| EndReason::Done, backwards: false }
    }
}

/// A played episode of two turns, with labels in mode `Dagger`.
pub(super) fn end(id: EpisodeId, group: u64, member: u32, size: u32, mode: Mode, version: u64, reward: f32) -> End {
    let source = if matches!(mode, Mode::Expert | Mode::Format) { Source::Expert } else { Source::Policy };
    let versions = if source == Source::Policy { vec![(version, 2)] } else { vec![] };
    let span = |turn, start| TurnSpan {
        turn,
        start,
        reply: start + 1,
        end: start + 3,
        close: start + 3,
        trainable: true,
        source,
        versions: versions.clone(),
        cut: false,
    };
    let label = |turn, after| Label { turn, after, tokens: U32s(vec![7, 7, 7]) };
    let segment = Segment {
        tokens: U32s([vec![code(id)], vec![5; 6]].concat()),
        logprobs: F32s(if source == Source::Policy { vec![-0.5; 4] } else { vec![] }),
        turns: vec![span(0, 1), span(1, 4)],
        labels: if mode == Mode::Dagger { vec![label(0, 2), label(1, 5)] } else { vec![] },
        ..Segment::default()
    };
    let example = End::example();
    let turn = |turn| Turn { turn, reply_tokens: 2, ..example.turns[0].clone() };
    let episode = Episode { id, group, member, group_size: size, mode, scene: None, seed: group, ..Episode::example() };
    End {
        episode,
        reason: EndReason::Done,
        success: reward >= 10.0,
        rewards: vec![("task".into(), reward), ("format".into(), 0.5)],
        turns: vec![turn(0), turn(1)],
        segments: vec![segment],
        frames: vec![],
        ..example
    }
}

/// What has been started so far. It outlives learners.
#[derive(Default)]
struct Played {
    groups: u64,
    train: u64,
    experts: u64,
    val: BTreeSet<u64>,
}

// --- The rig -----------------------------------------------------------------------------------------------------------

/// How long an order takes.
const WORK_MS: u64 = 20;

pub(super) struct Rig {
    pub(super) folder: tempfile::TempDir,
    pub(super) pipeline: Pipeline,
    pub(super) maker: Counters,
    pub(super) world: World,
    learner: Option<Learner<Counters>>,
    played: Played,
    /// Ends that are not acked, in stream order.
    ends: BTreeMap<u64, (EpisodeId, Vec<u8>)>,
    sequence: u64,
    /// Of this learner: what is delivered, by delivery; and what it has asked for.
    delivered: BTreeMap<u64, u64>,
    asked: u32,
    objects: BTreeMap<String, Vec<u8>>,
    pub(super) policies: Vec<PolicyPublished>,
    pub(super) grants: Vec<Grant>,
    pub(super) exit: Option<(i32, String)>,
    pub(super) ever: BTreeSet<EpisodeId>,
    now: Now,
    epoch: u64,
    /// Points at which a process can die, passed so far, and where it does.
    points: usize,
    pub(super) kill_at: BTreeSet<usize>,
    pub(super) acks: Vec<EpisodeId>,
}

impl Rig {
    pub(super) fn new(text: &str) -> Rig {
        let whole = format!("name = \"t\"\n[world]\nname = \"frozenlake\"\n{text}");
        // A file system in memory: what is tested is the order of writes, not the disk.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let files = ["tokenizer.json", "tokenizer_config.json", "config.json"].map(|name| (name.to_string(), vec![1]));
        Rig {
            folder: folder.unwrap(),
            pipeline: Pipeline::parse(&whole).unwrap(),
            maker: Counters::default(),
            world: World::default(),
            learner: None,
            played: Played::default(),
            ends: BTreeMap::new(),
            sequence: 0,
            delivered: BTreeMap::new(),
            asked: 0,
            objects: files.into(),
            policies: vec![],
            grants: vec![],
            exit: None,
            ever: BTreeSet::new(),
            now: Now::default(),
            epoch: 0,
            points: 0,
            kill_at: BTreeSet::new(),
            acks: vec![],
        }
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.grants.last()
    }

    /// The broker has lost all its files.
    pub(super) fn lose_broker(&mut self) {
        self.objects.retain(|name, _| !name.starts_with("policy-"));
        self.ends.clear();
        self.grants.clear();
    }

    pub(super) fn kill(&mut self) {
        self.learner = None;
    }

    fn begin(&mut self) {
        self.epoch += 1;
        self.delivered.clear();
        self.asked = 0;
        let identity = Identity {
            run: "r".into(),
            id: format!("learner-{}", self.epoch),
            host: "a".into(),
            pid: 1,
            epoch: self.epoch,
            since_us: 0,
            folder: self.folder.path().to_path_buf(),
            pipeline: self.pipeline.clone(),
        };
        self.now.mono_ms = 0;
        self.learner = Some(Learner::new(identity, self.maker.clone()));
        self.input(Input::Started);
    }

    /// Whether the process dies here.
    fn dies(&mut self) -> bool {
        self.points += 1;
        let dies = self.kill_at.contains(&self.points);
        if dies {
            self.learner = None;
        }
        dies
    }

    /// One input and all that follows at once.
    fn input(&mut self, input: Input) {
        let mut todo = VecDeque::from([input]);
        while let Some(input) = todo.pop_front() {
            let Some(learner) = &mut self.learner else { return };
            for output in learner.step(input, self.now) {
                if self.dies() {
                    return;
                }
                match self.carry_out(output) {
                    Ok(next) => todo.extend(next),
                    Err(()) => return,
                }
            }
        }
    }

    fn carry_out(&mut self, output: Output) -> Result<Option<Input>, ()> {
        Ok(match output {
            Output::GetObject { ticket, name } => Some(Input::Object { ticket, bytes: self.objects.get(&name).cloned(), name }),
            Output::PutObject { ticket, name, bytes } => {
                self.objects.insert(name, bytes);
                Some(Input::ObjectPut { ticket, result: Ok(()) })
            }
            Output::DeleteObject { name } => {
                self.objects.remove(&name);
                None
            }
            Output::PublishDurable { ticket, subject, payload, .. } => Some(self.publish(ticket, &subject, &payload)),
            Output::Work { ticket, work } => {
                let result = work.run();
                self.now.mono_ms += WORK_MS;
                if self.dies() {
                    return Err(());
                }
                Some(Input::Worked { ticket, result })
            }
            Output::Fetch { count, .. } => {
                self.asked += count;
                None
            }
            Output::Ack(Delivery(number)) => {
                if let Some((id, _)) = self.delivered.remove(&number).and_then(|sequence| self.ends.remove(&sequence)) {
                    self.acks.push(id);
                }
                None
            }
            Output::Exit { code, message } => {
                self.exit = Some((code, message));
                self.learner = None;
                return Err(());
            }
            Output::Progress(_) | Output::Nak { .. } => None,
            other => panic!("{other:?}"),
        })
    }

    fn publish(&mut self, ticket: Ticket, subject: &str, payload: &[u8]) -> Input {
        if subject == subjects::policies("r") {
            let policy: PolicyPublished = decode(payload).unwrap();
            assert!(self.policies.last().is_none_or(|last| last.version < policy.version), "versions rise: {policy:?}");
            assert_eq!(policy.digest, blake3::hash(&self.objects[&policy.object]).to_hex().to_string(), "the weights come first");
            self.policies.push(policy);
        } else {
            self.grants.push(decode(payload).unwrap());
        }
        self.sequence += 1;
        Input::Published { ticket, result: Ok(self.sequence) }
    }

    /// Plays what is granted and has not been played.
    fn play(&mut self) {
        let Some(grant) = self.grants.last().cloned() else { return };
        if grant.finished {
            return;
        }
        let mut ends = vec![];
        while self.played.groups < grant.upto_group {
            let group = self.played.groups;
            let (mode, size) = if group < grant.dagger_below { (Mode::Dagger, 1) } else { (Mode::Policy, self.world.group_size) };
            for member in 0..size {
                let id = EpisodeId { split: Split::Train, number: self.played.train };
                ends.push(end(id, group, member, size, mode, grant.version, (self.world.reward)(group, member)));
                self.played.train += 1;
            }
            self.played.groups += 1;
        }
        while self.played.experts < grant.upto_expert {
            let id = EpisodeId { split: Split::Expert, number: self.played.experts };
            ends.push(end(id, id.number, 0, 1, Mode::Expert, 0, 10.0));
            self.played.experts += 1;
        }
        for version in grant.validate {
            if self.played.val.insert(version) {
                let pass = self.played.val.len() as u64 - 1;
                for number in 0..self.pipeline.episodes.validation {
                    let id = EpisodeId { split: Split::Val, number: pass * self.pipeline.episodes.validation + number };
                    let mut end = end(id, id.number, 0, 1, Mode::Policy, version, if number < version { 10.0 } else { 0.0 });
                    end.episode.validates = version;
                    ends.push(end);
                }
            }
        }
        if self.world.backwards {
            ends.reverse();
        }
        for mut end in ends {
            end.reason = (self.world.reason)(end.id());
            self.sequence += 1;
            self.ever.insert(end.id());
            self.ends.insert(self.sequence, (end.id(), encode(&end)));
        }
    }

    /// Delivers what was asked for, one end an input.
    fn deliver(&mut self) {
        let there: BTreeSet<u64> = self.delivered.values().copied().collect();
        let fresh: Vec<u64> = self.ends.keys().copied().filter(|s| !there.contains(s)).collect();
        for sequence in fresh {
            if self.asked == 0 || self.learner.is_none() {
                return;
            }
            self.asked -= 1;
            self.deliver_one(sequence);
        }
    }

    fn deliver_one(&mut self, sequence: u64) {
        let Some((id, payload)) = self.ends.get(&sequence).cloned() else { return };
        self.points += 1;
        let delivery = Delivery(1_000_000 + self.points as u64);
        self.delivered.insert(delivery.0, sequence);
        let durable = Durable { stream: Stream::Ends, name: subjects::ENDS_LEARNER.into() };
        let delivered = Delivered { delivery, count: 1, sequence, durable };
        self.input(Input::Message { subject: subjects::ends("r", id), headers: BTreeMap::new(), payload, delivery: Some(delivered) });
    }

    /// Delivers everything that is unacked once more, as after a lost connection.
    pub(super) fn deliver_again(&mut self) {
        for sequence in self.ends.keys().copied().collect::<Vec<_>>() {
            self.deliver_one(sequence);
        }
    }

    pub(super) fn turn(&mut self, ms: u64) {
        if self.learner.is_none() {
            self.begin();
        }
        self.play();
        self.deliver();
        self.now.mono_ms += ms;
        self.input(Input::Tick);
    }

    /// Until the learner says that it has finished and nothing is left, or ends.
    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..2000 {
            self.turn(ms);
            if self.exit.is_some() || (self.grant().is_some_and(|g| g.finished) && self.ends.is_empty() && self.learner.is_some()) {
                return;
            }
        }
        let learner = self.learner.as_ref().map(Stage::report);
        panic!("it never finished: {learner:?}, {} ends left, grant {:?}", self.ends.len(), self.grant());
    }

    pub(super) fn drain(&mut self) {
        self.input(Input::Drain);
    }

    pub(super) fn points(&self) -> usize {
        self.points
    }

    pub(super) fn gauge(&self, name: &str) -> f64 {
        self.learner.as_ref().unwrap().report().gauges[name]
    }

    pub(super) fn checkpoint(&self) -> (work::Snapshot, Counting) {
        let (_, folder) = checkpoint::latest(&self.folder.path().join("checkpoints")).unwrap().unwrap();
        let weights = std::fs::read_to_string(folder.join("policy/weights")).unwrap_or_default();
        (work::read(&folder).unwrap(), Counting { seen: Counting::parse(&weights), ..Counting::default() })
    }

    pub(super) fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.folder.path().join(name)).unwrap()).unwrap()
    }
}
