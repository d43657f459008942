//! The replayer over a real store, step by step.

use crate::Replayer;
use kit::stage::{Identity, Input, Now, Output, Stage, Ticket};
use schemas::pipeline::Pipeline;
use schemas::{End, EpisodeId, Grant, Message, Mode, Split, decode, encode, subjects};
use std::path::Path;
use store::{About, Store, Writer};

const PIPELINE: &str = r#"
name = "set"
world = { name = "frozenlake" }
schedule = [{ phase = "imitation", batches = 1, batch = 4 }]
learner = { validate = false }
stages = { env_steppers = 0 }
"#;

fn files() -> (Vec<u8>, Vec<u8>) {
    context::train_small(&["P _ G".to_string()], &["Left".to_string(), "Right".to_string()], 300).unwrap()
}

fn end(split: Split, number: u64, mode: Mode) -> End {
    let mut end = End::example();
    end.episode.id = EpisodeId { split, number };
    end.episode.mode = mode;
    (end.episode.group, end.episode.member, end.episode.group_size) = (number / 2, (number % 2) as u32, 2);
    end
}

/// A store with five expert episodes and two groups, the second of which is not whole.
fn fill(folder: &Path, tokenizer: &str) {
    let (json, config) = files();
    let real = context::Tokenizer::from_files(&json, &config).unwrap();
    let digest = if tokenizer.is_empty() { real.digest() } else { tokenizer.to_string() };
    let about = About { tokenizer: digest, template: real.template_digest(), pipeline: PIPELINE.into(), ..About::default() };
    let mut ends: Vec<End> = (0..5).map(|number| end(Split::Expert, number, Mode::Expert)).collect();
    ends.extend((0..3).map(|number| end(Split::Train, number, Mode::Policy)));
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let store = Store::open(&folder.join("dataset").display().to_string(), "set").unwrap();
        store.describe(about, &[]).await.unwrap();
        Writer::open(store, "w").await.unwrap().commit(&ends, 1).await.unwrap();
    });
}

struct Bench {
    stage: Replayer,
    sent: Vec<(Ticket, End)>,
    exit: Option<(i32, String)>,
}

impl Bench {
    fn new(folder: &Path) -> Bench {
        let mut pipeline = Pipeline::parse(PIPELINE).unwrap();
        pipeline.offline = Some(schemas::pipeline::OfflineConfig::default());
        let identity = Identity {
            run: "r".into(),
            id: "replayer-1".into(),
            host: "h".into(),
            pid: 1,
            epoch: 0,
            since_us: 0,
            folder: folder.into(),
            pipeline,
        };
        let mut bench = Bench { stage: Replayer::new(&identity), sent: vec![], exit: None };
        let (tokenizer, config) = files();
        bench.step(Input::Started);
        for (name, bytes) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            bench.step(Input::Object { ticket: Ticket(0), name: name.into(), bytes: Some(bytes) });
        }
        bench
    }

    /// Does all work at once.
    fn step(&mut self, input: Input) {
        for output in self.stage.step(input, Now::default()) {
            match output {
                Output::Work { ticket, work } => {
                    let result = work.run();
                    self.step(Input::Worked { ticket, result });
                }
                Output::PublishDurable { ticket, payload, .. } => {
                    self.sent.push((ticket, decode(&payload).unwrap()));
                    self.step(Input::Published { ticket, result: Ok(1) });
                }
                Output::Exit { code, message } => self.exit = Some((code, message)),
                _ => {}
            }
        }
    }

    fn grant(&mut self, upto_expert: u64, upto_group: u64, version: u64) {
        let grant = Grant { epoch: 1, upto_group, dagger_below: 0, upto_expert, version, validate: vec![], finished: false, start: None };
        self.step(Input::Message { subject: subjects::grants("r"), headers: Default::default(), payload: encode(&grant), delivery: None });
    }

    fn names(&self) -> Vec<String> {
        self.sent.iter().map(|(_, end)| end.id().to_string()).collect()
    }
}

#[test]
fn it_hands_on_what_is_granted_and_begins_again_where_more_is() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "");
    let mut bench = Bench::new(folder.path());
    assert!(bench.sent.is_empty() && bench.exit.is_none(), "{:?}", bench.exit);
    bench.grant(3, 0, 0);
    assert_eq!(bench.names(), ["expert.0", "expert.1", "expert.2"]);
    bench.grant(7, 0, 0);
    assert_eq!(bench.names()[3..], ["expert.3", "expert.4", "expert.5", "expert.6"]);
    assert_eq!(bench.sent[5].1.note, "recorded as expert.0");
    assert!(bench.sent.iter().all(|(_, end)| end.episode.mode == Mode::Expert));
    assert_eq!(bench.stage.report().gauges["published_expert"], 7.0);
}

#[test]
fn whole_groups_go_out_under_the_learners_own_version() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "");
    let mut bench = Bench::new(folder.path());
    bench.grant(0, 2, 6);
    assert_eq!(bench.names(), ["train.0", "train.1", "train.2", "train.3"]);
    let groups: Vec<(u64, u32)> = bench.sent.iter().map(|(_, end)| (end.episode.group, end.episode.member)).collect();
    assert_eq!(groups, [(0, 0), (0, 1), (1, 0), (1, 1)], "the group that is not whole stays out");
    assert_eq!(bench.sent[0].1.versions(), Some((6, 6)));
}

#[test]
fn another_tokenizers_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), "feedfacefeedface");
    let (code, message) = Bench::new(folder.path()).exit.unwrap();
    assert!(code == 1 && message.contains("tokenizer feedfacefeed") && message.contains("retokenize"), "{message}");
}

#[test]
fn a_store_that_is_not_there_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (code, message) = Bench::new(folder.path()).exit.unwrap();
    assert!(code == 1 && message.contains("no such folder") && !message.contains('\n'), "{message}");
}
