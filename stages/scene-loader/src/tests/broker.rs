//! A broker in memory, and a toy world with two buckets.

use crate::Loader;
use kit::{Delivered, Delivery, Identity, Input, Now, Output, PublishError, Report, Stage};
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, end_headers};
use schemas::{Episode, EpisodeId, Grant, Message, Split, decode, encode};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use worlds::{ActionName, Kind, RewardBounds, Scene, Task, World};

struct Toy {
    broken: bool,
}

impl Kind for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn actions(&self) -> &[ActionName] {
        &[]
    }
    fn rules(&self) -> String {
        String::new()
    }
    fn reward_bounds(&self, _: u32) -> RewardBounds {
        RewardBounds { worst_success: 1.0, best_failure: 0.0 }
    }
    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        if self.broken {
            return Err("no level of this size".into());
        }
        let bucket = bucket.unwrap_or("easy");
        if seed.is_multiple_of(7) && bucket == "hard" {
            return Err("this seed has no hard level".into());
        }
        Ok(Task { seed, json: format!("{{\"level\":{seed}}}"), bucket: bucket.into(), expert_length: 3 })
    }
    fn held_out(&self, number: u64) -> Result<Task, String> {
        Ok(Task { seed: number, json: format!("{{\"held_out\":{number}}}"), bucket: "easy".into(), expert_length: 3 })
    }
    fn buckets(&self) -> Vec<String> {
        vec!["easy".into(), "hard".into()]
    }
    fn scene(&self, task: &Task) -> Result<Option<Scene>, String> {
        Ok(Some(Scene { origin: format!("generated:{}", task.seed % 5), bytes: vec![(task.seed % 5) as u8; 9] }))
    }
    fn start(&self, _: &Task, _: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        Err("a toy is not played".into())
    }
    fn corpus(&self, _: usize) -> Vec<String> {
        vec![]
    }
}

pub(super) fn pipeline(rules: &str) -> Pipeline {
    let mut text = format!("name = \"toy\"\nseed = 3\n{rules}\n");
    for (key, default) in [("world", "{ name = \"toy\" }"), ("schedule", "[]"), ("episodes", "{ curriculum = false }")] {
        if !rules.lines().any(|line| line.starts_with(key)) {
            text += &format!("{key} = {default}\n");
        }
    }
    let mut pipeline = Pipeline::parse(&text).unwrap();
    if !rules.contains("validation") {
        pipeline.episodes.validation = 20;
    }
    pipeline
}

pub(super) fn grant(upto_group: u64, upto_expert: u64, validate: &[u64]) -> Grant {
    Grant { epoch: 1, upto_group, dagger_below: 0, upto_expert, version: 0, validate: validate.to_vec(), finished: false, start: None }
}

/// Takes a loader's outputs one at a time, and answers each later.
pub(super) struct Broker {
    pipeline: Pipeline,
    loader: Loader,
    answers: VecDeque<Input>,
    now: Now,
    pub(super) state: Option<Vec<u8>>,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    pub(super) object_puts: BTreeMap<String, u32>,
    pub(super) episodes: BTreeMap<EpisodeId, Episode>,
    pub(super) headers: BTreeMap<EpisodeId, String>,
    /// Episodes published again by the same process, and ones published again with other content.
    pub(super) duplicates: u32,
    pub(super) changed: u32,
    grant: Option<Grant>,
    /// Ends not acked, and those acked, by delivery.
    ends: VecDeque<(EpisodeId, BTreeMap<String, String>)>,
    delivered: BTreeMap<Delivery, (EpisodeId, BTreeMap<String, String>)>,
    pub(super) acked: Vec<EpisodeId>,
    ended: BTreeMap<EpisodeId, bool>,
    asked: u32,
    deliveries: u64,
    restarts: u64,
    pub(super) full: bool,
    pub(super) state_fails: bool,
    pub(super) exited: Option<(i32, String)>,
}

fn loader(pipeline: &Pipeline, epoch: u64) -> Loader {
    let identity = Identity {
        run: "r".into(),
        id: format!("scene-loader-{epoch}"),
        host: "h".into(),
        pid: 1,
        epoch,
        since_us: 0,
        folder: "runs/r".into(),
        pipeline: pipeline.clone(),
    };
    Loader::new(&identity, Arc::new(Toy { broken: pipeline.world.settings.contains_key("broken") }), 0)
}

impl Broker {
    pub(super) fn new(pipeline: Pipeline) -> Broker {
        let loader = loader(&pipeline, 1);
        Broker {
            pipeline,
            loader,
            answers: VecDeque::from([Input::Started]),
            now: Now::default(),
            state: None,
            objects: BTreeMap::new(),
            object_puts: BTreeMap::new(),
            episodes: BTreeMap::new(),
            headers: BTreeMap::new(),
            duplicates: 0,
            changed: 0,
            grant: None,
            ends: VecDeque::new(),
            delivered: BTreeMap::new(),
            acked: vec![],
            ended: BTreeMap::new(),
            asked: 0,
            deliveries: 0,
            restarts: 1,
            full: false,
            state_fails: false,
            exited: None,
        }
    }

    pub(super) fn report(&self) -> Report {
        self.loader.report()
    }

    pub(super) fn grant(&mut self, grant: Grant) {
        if self.grant.as_ref().is_none_or(|known| grant.epoch >= known.epoch && grant.upto_group >= known.upto_group) {
            self.grant = Some(grant.clone());
        }
        self.send_grant(&grant);
    }

    fn send_grant(&mut self, grant: &Grant) {
        self.answers.push_back(Input::Message {
            subject: subjects::grants("r"),
            headers: BTreeMap::new(),
            payload: encode(grant),
            delivery: None,
        });
    }

    pub(super) fn drain(&mut self) {
        self.answers.push_back(Input::Drain);
    }

    /// Kills the process: answers under way are lost, ends not acked come again.
    pub(super) fn restart(&mut self) {
        self.restarts += 1;
        self.loader = loader(&self.pipeline, self.restarts);
        self.answers = VecDeque::from([Input::Started]);
        for (_, end) in std::mem::take(&mut self.delivered).into_iter().rev() {
            self.ends.push_front(end);
        }
        self.asked = 0;
        if let Some(grant) = self.grant.clone() {
            self.send_grant(&grant);
        }
    }

    pub(super) fn numbers(&self, split: Split) -> Vec<u64> {
        self.episodes.keys().filter(|id| id.split == split).map(|id| id.number).collect()
    }

    /// Ends every episode that has none.
    pub(super) fn end_all(&mut self, mut won: impl FnMut(&Episode) -> bool) {
        for episode in self.episodes.values() {
            if self.ended.insert(episode.id, true).is_none() {
                let headers = [
                    (end_headers::GROUP, episode.group.to_string()),
                    (end_headers::BUCKET, episode.bucket.clone()),
                    (end_headers::SUCCESS, won(episode).to_string()),
                    (end_headers::REASON, "done".to_string()),
                ];
                self.ends.push_back((episode.id, headers.map(|(k, v)| (k.to_string(), v)).into()));
            }
        }
    }

    /// Runs for so many ticks; between two, until nothing is left to do.
    pub(super) fn run(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now.mono_ms += 100;
            self.answers.push_back(Input::Tick);
            while self.exited.is_none() && self.step() {}
        }
    }

    pub(super) fn step_times(&mut self, times: u32) {
        for _ in 0..times {
            self.step();
        }
    }

    /// One input. Returns whether there was one.
    fn step(&mut self) -> bool {
        let input = match self.answers.pop_front() {
            Some(input) => input,
            None if self.asked > 0 && !self.ends.is_empty() => self.next_end(),
            None if self.loader.wants_idle() => Input::Idle,
            None => return false,
        };
        for output in self.loader.step(input, self.now) {
            self.take(output);
        }
        true
    }

    fn next_end(&mut self) -> Input {
        self.asked -= 1;
        self.deliveries += 1;
        let (id, headers) = self.ends.pop_front().unwrap();
        self.delivered.insert(Delivery(self.deliveries), (id, headers.clone()));
        let durable = kit::Durable { stream: subjects::Stream::Ends, name: subjects::ENDS_LOADER.into() };
        let delivery = Some(Delivered { delivery: Delivery(self.deliveries), count: 1, sequence: self.deliveries, durable });
        Input::Message { subject: subjects::ends("r", id), headers, payload: vec![], delivery }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::GetState { ticket } => self.answers.push_back(Input::State { ticket, bytes: self.state.clone() }),
            Output::PutState { ticket, bytes } => {
                let result = if self.state_fails { Err("no space".to_string()) } else { Ok(()) };
                if result.is_ok() {
                    self.state = Some(bytes);
                }
                self.answers.push_back(Input::StatePut { ticket, result });
            }
            Output::PutObject { ticket, name, bytes } => {
                *self.object_puts.entry(name.clone()).or_default() += 1;
                self.objects.insert(name, bytes);
                self.answers.push_back(Input::ObjectPut { ticket, result: Ok(()) });
            }
            Output::PublishDurable { ticket, subject, headers, payload, .. } => {
                let result = if self.full { Err(PublishError::Full) } else { Ok(self.store(&subject, &headers, &payload)) };
                self.answers.push_back(Input::Published { ticket, result });
            }
            Output::Fetch { count, .. } => self.asked += count,
            Output::Ack(delivery) => self.acked.extend(self.delivered.remove(&delivery).map(|(id, _)| id)),
            Output::Exit { code, message } => self.exited = Some((code, message)),
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, subject: &str, headers: &BTreeMap<String, String>, payload: &[u8]) -> u64 {
        let episode: Episode = decode(payload).unwrap();
        assert_eq!(subject, subjects::episodes("r", "toy", episode.id.split));
        // What is published is in the written state already, and its scene is stored.
        assert!(self.state.is_some());
        let scene = episode.scene.as_ref().unwrap();
        assert_eq!(schemas::digest_of(&self.objects[&format!("scene-{}", scene.digest)]), scene.digest);
        self.headers.insert(episode.id, headers["Nats-Msg-Id"].clone());
        assert!(payload.len() < Episode::MAX_BYTES);
        if let Some(known) = self.episodes.insert(episode.id, episode.clone()) {
            self.duplicates += 1;
            self.changed += u32::from(known != episode);
        }
        self.episodes.len() as u64
    }
}
