//! The stage driven by hand, with an engine that replies with fixed letters and with the scripted one.

use crate::engine::{Engine, Generated, Load, Request};
use crate::{Files, Generator, Scripted};
use kit::stage::{Identity, Input, Now, Output, Stage};
use schemas::pipeline::{Engine as EngineName, Pipeline};
use schemas::{Address, Completion, EpisodeId, Message, PolicyPin, PolicyPublished, Prompt, Sampling, Split, Status, subjects};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const ACTIONS: [&str; 4] = ["Left", "Down", "Right", "Up"];

fn tokenizer() -> (Vec<u8>, Vec<u8>) {
    let corpus: Vec<String> = ["P _ G", "_ P G", "_ _ P"].map(String::from).to_vec();
    context::train_small(&corpus, &ACTIONS.map(String::from), 320).unwrap()
}

fn identity(engine: EngineName, edit: impl FnOnce(&mut Pipeline)) -> Identity {
    let text = "name = \"t\"\n[world]\nname = \"frozenlake\"\n[[schedule]]\nphase = \"grpo\"\nbatch = 4\n";
    let mut pipeline = Pipeline::parse(text).unwrap();
    pipeline.generator.engine = engine;
    edit(&mut pipeline);
    Identity {
        run: "r".into(),
        id: "generator-1".into(),
        host: "a".into(),
        pid: 1,
        epoch: 0,
        since_us: 0,
        folder: "runs/r".into(),
        pipeline,
    }
}

/// What an engine was told.
#[derive(Default)]
struct Seen {
    loaded: Vec<u64>,
    /// What is being made ready, and whether it is.
    loading: Option<u64>,
    finished: bool,
    dropped: Vec<u64>,
    forgotten: Vec<u64>,
    running: Vec<Request>,
}

/// Answers each request at the next step with its last stop id alone.
struct Fixed(Arc<Mutex<Seen>>);

impl Engine for Fixed {
    fn wants_weights(&self) -> bool {
        true
    }
    fn sees(&self) -> bool {
        false
    }
    fn load(&mut self, version: u64, weights: Vec<u8>) -> Result<bool, String> {
        if weights == b"bad" {
            return Err("no safetensors".into());
        }
        let mut seen = self.0.lock().unwrap();
        if weights == b"large" {
            seen.loading = Some(version);
            return Ok(false);
        }
        seen.loaded.push(version);
        Ok(true)
    }
    fn loaded(&mut self) -> Option<Result<(), String>> {
        let mut seen = self.0.lock().unwrap();
        let version = seen.loading.filter(|_| seen.finished)?;
        (seen.loading, seen.finished) = (None, false);
        seen.loaded.push(version);
        Some(Ok(()))
    }
    fn drop_version(&mut self, version: u64) {
        self.0.lock().unwrap().dropped.push(version);
    }
    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String> {
        if request.tokens.len() > 100 {
            return Err("too long".into());
        }
        self.0.lock().unwrap().running.push(request);
        Ok(None)
    }
    fn step(&mut self) -> Result<Vec<Generated>, String> {
        let done = std::mem::take(&mut self.0.lock().unwrap().running);
        let reply = |r: Request| Generated {
            ticket: r.ticket,
            tokens: vec![r.stop_ids[0]],
            logprobs: vec![-0.5],
            versions: vec![(r.version, 1)],
            cut: false,
            failed: None,
        };
        Ok(done.into_iter().map(reply).collect())
    }
    fn has_work(&self) -> bool {
        !self.0.lock().unwrap().running.is_empty()
    }
    fn forget(&mut self, rollout: u64) {
        self.0.lock().unwrap().forgotten.push(rollout);
    }
    fn load_now(&self) -> Load {
        Load::default()
    }
}

/// A stage with its files, and a little object store.
struct Bench {
    stage: Generator,
    seen: Arc<Mutex<Seen>>,
    objects: BTreeMap<String, Vec<u8>>,
    now: Now,
}

impl Bench {
    fn new(engine: EngineName, edit: impl FnOnce(&mut Pipeline)) -> Bench {
        let identity = identity(engine, edit);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (told, prompt) = (seen.clone(), identity.pipeline.prompt.clone());
        let make = move |files: &Files| match engine {
            EngineName::Builtin | EngineName::Vllm | EngineName::Chat => Ok(Box::new(Fixed(told)) as Box<dyn Engine>),
            EngineName::Scripted => {
                let engine = Scripted::new(files.context.clone(), prompt, ACTIONS.map(String::from).to_vec())?;
                Ok(Box::new(engine) as Box<dyn Engine>)
            }
        };
        let (tokenizer, config) = tokenizer();
        let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", config), ("config.json", b"{}".to_vec())];
        let objects = files.into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let stage = Generator::new(identity, Box::new(make));
        Bench { stage, seen, objects, now: Now::default() }
    }

    fn started(engine: EngineName) -> Bench {
        let mut bench = Bench::new(engine, |_| {});
        bench.step(Input::Started);
        bench
    }

    /// One input, and all that follows from the object store. Gives the completions.
    fn step(&mut self, input: Input) -> Vec<Completion> {
        let mut told = vec![];
        let mut todo = self.stage.step(input, self.now);
        while !todo.is_empty() {
            let mut next = vec![];
            for output in todo {
                match output {
                    Output::GetObject { ticket, name } => {
                        let bytes = self.objects.get(&name).cloned();
                        next.extend(self.stage.step(Input::Object { ticket, name, bytes }, self.now));
                    }
                    Output::Publish { subject, payload } => {
                        assert_eq!(subject, subjects::completions("r", "env-stepper-1"));
                        told.push(schemas::decode::<Completion>(&payload).unwrap());
                    }
                    Output::Reject { reason, .. } => assert!(reason.contains("hint"), "{reason}"),
                    other => panic!("{other:?}"),
                }
            }
            todo = next;
        }
        told
    }

    fn publish(&mut self, version: u64, weights: &[u8]) -> Vec<Completion> {
        let (tokenizer, config) = tokenizer();
        let made = context::Tokenizer::from_files(&tokenizer, &config).unwrap();
        let policy = PolicyPublished {
            version,
            object: format!("policy-{version}"),
            digest: blake3::hash(weights).to_hex().to_string(),
            tokenizer: made.digest(),
            template: made.template_digest(),
            ..PolicyPublished::example()
        };
        self.objects.insert(policy.object.clone(), weights.to_vec());
        self.message(&policy, &subjects::policies("r"))
    }

    fn message<M: Message>(&mut self, message: &M, subject: &str) -> Vec<Completion> {
        let payload = schemas::encode(message);
        self.step(Input::Message { subject: subject.into(), headers: BTreeMap::new(), payload, delivery: None })
    }

    fn ask(&mut self, prompt: &Prompt) -> Vec<Completion> {
        self.message(prompt, &subjects::prompts("r", "generator-1"))
    }

    fn later(&mut self, ms: u64) -> Vec<Completion> {
        self.now.mono_ms += ms;
        self.step(Input::Tick)
    }
}

fn prompt(number: u64, turn: u32, policy: PolicyPin) -> Prompt {
    let (tokenizer, config) = tokenizer();
    let context = context::Context::from_files(&tokenizer, &config, context::ImageSettings::default()).unwrap();
    let mut segment = context.open(&schemas::SegmentHead::default(), 0).unwrap();
    context.push_turn(&mut segment, "P _ G", &[]).unwrap();
    Prompt {
        at: Address { id: EpisodeId { split: Split::Train, number }, turn, attempt: 0, traceparent: String::new() },
        segment,
        policy,
        frames: vec![],
        stop_ids: context.tokenizer.stop_ids(),
        sampling: Sampling { seed: number, ..Sampling::default() },
        ..Prompt::example()
    }
}

fn statuses(told: &[Completion]) -> Vec<Status> {
    told.iter().map(|c| c.status.clone()).collect()
}

#[test]
fn a_prompt_is_accepted_runs_and_is_done_once() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.publish(0, b"w0");
    let prompt = prompt(7, 0, PolicyPin::AtLeast(0));
    assert_eq!(statuses(&bench.ask(&prompt)), [Status::Accepted]);
    assert_eq!(statuses(&bench.ask(&prompt)), [Status::Running], "a prompt in hand is not begun again");
    assert_eq!(statuses(&bench.later(1_000)), [Status::Running]);
    assert_eq!(statuses(&bench.later(500)), []);
    assert!(bench.stage.wants_idle());
    let done = bench.step(Input::Idle);
    assert_eq!(statuses(&done), [Status::Done]);
    let segment = done[0].segment.clone().unwrap();
    assert_eq!((segment.turns.len(), segment.logprobs.0.clone(), segment.turns[0].versions.clone()), (1, vec![-0.5], vec![(0, 1)]));
    assert_eq!(segment.tokens.0[..prompt.segment.len()], prompt.segment.tokens.0, "the context is what was asked");
    assert_eq!(bench.ask(&prompt), done, "a repeated prompt is answered from memory");
    assert!(!bench.stage.wants_idle());
}

#[test]
fn nothing_is_served_before_the_version_that_is_asked_for() {
    let mut bench = Bench::started(EngineName::Builtin);
    assert_eq!(statuses(&bench.ask(&prompt(0, 0, PolicyPin::Latest))), [Status::Accepted]);
    assert!(!bench.stage.wants_idle(), "there are no weights at all");
    bench.publish(0, b"w0");
    assert_eq!(bench.step(Input::Idle).len(), 1);
    assert_eq!(statuses(&bench.ask(&prompt(1, 0, PolicyPin::AtLeast(1)))), [Status::Accepted]);
    assert!(!bench.stage.wants_idle());
    bench.publish(1, b"w1");
    assert_eq!(bench.step(Input::Idle)[0].segment.clone().unwrap().turns[0].versions, [(1, 1)]);
    bench.ask(&prompt(2, 0, PolicyPin::Exactly(9)));
    let told = bench.later(5_000);
    assert!(statuses(&told).contains(&Status::Version(vec![0, 1])), "{told:?}");
    assert_eq!(statuses(&bench.ask(&prompt(2, 0, PolicyPin::Exactly(9)))), [Status::Accepted], "it may be asked again");
}

#[test]
fn an_old_version_is_loaded_for_who_asks_for_it_and_only_so_many_are_held() {
    let mut bench = Bench::started(EngineName::Builtin);
    for version in 0..4u64 {
        bench.publish(version, format!("w{version}").as_bytes());
    }
    assert_eq!(bench.stage.report().versions, [2, 3]);
    bench.ask(&prompt(0, 0, PolicyPin::Exactly(0)));
    assert_eq!(bench.step(Input::Idle)[0].segment.clone().unwrap().turns[0].versions, [(0, 1)]);
    assert_eq!(bench.stage.report().versions, [0, 3]);
    assert_eq!(bench.seen.lock().unwrap().loaded, [0, 1, 2, 3, 0]);
}

#[test]
fn a_running_reply_keeps_its_version() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.publish(0, b"w0");
    bench.ask(&prompt(0, 0, PolicyPin::Latest));
    for version in 1..4u64 {
        bench.publish(version, b"w");
    }
    assert!(!bench.seen.lock().unwrap().dropped.contains(&0));
    assert_eq!(bench.step(Input::Idle)[0].segment.clone().unwrap().turns[0].versions, [(0, 1)]);
    bench.publish(4, b"w");
    assert!(bench.seen.lock().unwrap().dropped.contains(&0));
}

#[test]
fn weights_that_do_not_fit_are_refused_and_the_older_serve_on() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.publish(0, b"w0");
    let other = PolicyPublished { version: 1, object: "policy-1".into(), tokenizer: "other".into(), ..PolicyPublished::example() };
    bench.message(&other, &subjects::policies("r"));
    bench.publish(2, b"bad");
    assert_eq!(bench.stage.report().versions, [0]);
    bench.publish(3, b"w3");
    bench.objects.insert("policy-4".into(), b"torn".to_vec());
    assert_eq!(bench.stage.report().versions, [0, 3]);
}

#[test]
fn replies_go_on_while_large_weights_are_made_ready() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.publish(0, b"w0");
    bench.publish(1, b"large");
    assert_eq!(bench.stage.report().versions, [0]);
    bench.ask(&prompt(1, 0, PolicyPin::Latest));
    assert_eq!(bench.step(Input::Idle)[0].segment.clone().unwrap().turns[0].versions, [(0, 1)]);
    bench.publish(2, b"w2");
    assert_eq!(bench.stage.report().versions, [0], "one after the other");
    assert_eq!(statuses(&bench.ask(&prompt(2, 0, PolicyPin::AtLeast(1)))), [Status::Accepted]);
    bench.seen.lock().unwrap().finished = true;
    bench.step(Input::Tick);
    assert_eq!(bench.seen.lock().unwrap().loaded, [0, 1, 2]);
    assert_eq!(bench.step(Input::Idle)[0].segment.clone().unwrap().turns[0].versions, [(1, 1)]);
}

#[test]
fn a_full_queue_is_busy_and_bad_prompts_fail_for_good() {
    let mut bench = Bench::new(EngineName::Builtin, |p| (p.generator.max_num_seqs, p.generator.queue) = (1, 1));
    bench.step(Input::Started);
    bench.publish(0, b"w0");
    let answers: Vec<Status> = (0..3).flat_map(|n| statuses(&bench.ask(&prompt(n, 0, PolicyPin::Latest)))).collect();
    assert_eq!(answers, [Status::Accepted, Status::Accepted, Status::Busy]);
    bench.step(Input::Idle);
    let mut long = prompt(5, 0, PolicyPin::Latest);
    long.segment.tokens.0.resize(101, 1);
    long.segment.prompt_end = 101;
    assert!(statuses(&bench.ask(&long)).iter().any(|s| *s == Status::Failed("too long".into())));
    let mut torn = prompt(6, 0, PolicyPin::Latest);
    torn.segment.prompt_end -= 1;
    assert!(matches!(statuses(&bench.ask(&torn))[..], [Status::Failed(_)]));
    assert_eq!(bench.stage.report().waiting, 0);
}

#[test]
fn a_new_segment_frees_what_was_kept_of_the_last() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.publish(0, b"w0");
    for (turn, number) in [(0, 0), (1, 0), (2, 1)] {
        let mut prompt = prompt(0, turn, PolicyPin::Latest);
        prompt.segment.number = number;
        bench.ask(&prompt);
        bench.step(Input::Idle);
    }
    assert_eq!(bench.seen.lock().unwrap().forgotten.len(), 1);
}

#[test]
fn scripted_replies_are_well_formed_the_same_for_a_seed_and_need_no_policy() {
    let mut bench = Bench::started(EngineName::Scripted);
    let specs: Vec<context::ActionSpec> =
        ACTIONS.iter().map(|name| context::ActionSpec { name: (*name).into(), ..context::ActionSpec::default() }).collect();
    let mut texts = vec![];
    for number in 0..50 {
        let done = bench.ask(&prompt(number, 0, PolicyPin::AtLeast(3)));
        assert_eq!(statuses(&done), [Status::Done], "one message in, one out");
        let parsed = context::format::parse(&bench.stage_prompt(), &specs, &done[0].text);
        assert!(parsed.well_formed && !parsed.actions.is_empty(), "{:?}", done[0].text);
        texts.push(done[0].text.clone());
    }
    assert!(texts.iter().collect::<std::collections::BTreeSet<_>>().len() > 20, "{texts:?}");
    let mut again = Bench::started(EngineName::Scripted);
    let repeated: Vec<String> = (0..50).map(|n| again.ask(&prompt(n, 0, PolicyPin::Latest))[0].text.clone()).collect();
    assert_eq!(repeated, texts);
}

#[test]
fn prompts_that_come_before_the_files_wait() {
    let mut bench = Bench::new(EngineName::Scripted, |_| {});
    let file = bench.objects.remove("tokenizer.json").unwrap();
    bench.step(Input::Started);
    assert_eq!(statuses(&bench.ask(&prompt(0, 0, PolicyPin::Latest))), [Status::Accepted]);
    assert_eq!(bench.stage.report().free, 0);
    bench.objects.insert("tokenizer.json".into(), file);
    assert!(statuses(&bench.later(600)).contains(&Status::Done));
}

#[test]
fn draining_hands_prompts_back() {
    let mut bench = Bench::started(EngineName::Builtin);
    bench.ask(&prompt(0, 0, PolicyPin::Latest));
    let out = bench.stage.step(Input::Drain, bench.now);
    assert!(matches!(&out[..], [Output::Publish { .. }, Output::Exit { code: 0, .. }]), "{out:?}");
}

impl Bench {
    fn stage_prompt(&self) -> schemas::pipeline::PromptConfig {
        identity(EngineName::Scripted, |_| {}).pipeline.prompt
    }
}
