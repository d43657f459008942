//! The recorder's steps over a sink that only remembers, and the same over a real store in a folder.

use crate::commit::{Commit, Done};
use crate::{BYTES_MAX, COMMIT_BYTES, FETCH, Item, Receipt, Recorder, Sink, StoreSink, TICKET};
use kit::stage::{Delivered, Delivery, Durable, Identity, Input, Now, Output, Stage, Work};
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream};
use schemas::{End, EpisodeId, Message, Split, encode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use store::Committed;

const PIPELINE: &str = r#"
name = "test"
world = { name = "frozenlake" }
schedule = [{ phase = "grpo", batch = 1, batches = 1 }]
record = { commit_episodes = 10, commit_s = 2.0 }
broker = { ack_wait_s = 9.0 }
"#;

fn identity(folder: &std::path::Path) -> Identity {
    Identity {
        run: "r".into(),
        id: "recorder-1".into(),
        host: "h".into(),
        pid: 1,
        epoch: 0,
        since_us: 0,
        folder: folder.into(),
        pipeline: Pipeline::parse(PIPELINE).unwrap(),
    }
}

fn id(number: u64) -> EpisodeId {
    EpisodeId { split: Split::Train, number }
}

/// What a sink was asked to keep, and what it answers next.
#[derive(Default)]
struct Memory {
    before: Committed,
    kept: Vec<EpisodeId>,
    fails: Option<String>,
    refuses: BTreeMap<usize, String>,
}

#[derive(Clone, Default)]
struct Remembers(Arc<Mutex<Memory>>);

impl Sink for Remembers {
    fn open(&mut self) -> Result<Committed, String> {
        Ok(self.0.lock().unwrap().before.clone())
    }

    fn commit(&mut self, batch: &[Item], _: u64) -> Result<Receipt, String> {
        let mut memory = self.0.lock().unwrap();
        if let Some(message) = memory.fails.clone() {
            return Err(message);
        }
        memory.kept.extend(batch.iter().map(|item| item.id));
        let refused = std::mem::take(&mut memory.refuses);
        Ok(Receipt { episodes: (batch.len() - refused.len()) as u64, bytes: 100, seconds: 0.5, refused })
    }
}

/// A recorder, the work that it has ordered, and a clock.
struct Bench {
    recorder: Recorder,
    work: Option<Box<dyn Work>>,
    now_ms: u64,
    deliveries: u64,
}

impl Bench {
    fn with(sink: Box<dyn Sink>) -> Bench {
        let folder = std::env::temp_dir();
        Bench { recorder: Recorder::new(&identity(&folder), sink), work: None, now_ms: 0, deliveries: 0 }
    }

    /// A recorder whose sink is open.
    fn open(sink: &Remembers) -> Bench {
        let mut bench = Bench::with(Box::new(sink.clone()));
        bench.step(Input::Started);
        bench.finish_work();
        bench
    }

    fn step(&mut self, input: Input) -> Vec<Output> {
        let now = Now { unix_us: 1_000 * self.now_ms, mono_ms: self.now_ms };
        let mut outputs = Vec::new();
        for output in self.recorder.step(input, now) {
            match output {
                Output::Work { ticket, work } => {
                    assert_eq!(ticket, TICKET);
                    assert!(self.work.replace(work).is_none(), "one work at a time");
                }
                other => outputs.push(other),
            }
        }
        outputs
    }

    fn finish_work(&mut self) -> Vec<Output> {
        let result = self.work.take().expect("work is under way").run();
        self.step(Input::Worked { ticket: TICKET, result })
    }

    fn tick(&mut self, ms: u64) -> Vec<Output> {
        self.now_ms += ms;
        self.step(Input::Tick)
    }

    fn bring(&mut self, number: u64, payload: Vec<u8>) -> Vec<Output> {
        self.bring_on(subjects::ends("r", id(number)), payload)
    }

    fn bring_on(&mut self, subject: String, payload: Vec<u8>) -> Vec<Output> {
        self.deliveries += 1;
        let durable = Durable { stream: Stream::Ends, name: subjects::ENDS_RECORDER.into() };
        let delivery = Some(Delivered { delivery: Delivery(self.deliveries), count: 1, sequence: self.deliveries, durable });
        self.step(Input::Message { subject, headers: BTreeMap::new(), payload, delivery })
    }
}

fn acks(outputs: &[Output]) -> Vec<u64> {
    outputs.iter().filter_map(|o| if let Output::Ack(Delivery(n)) = o { Some(*n) } else { None }).collect()
}

fn fetched(outputs: &[Output]) -> u32 {
    outputs.iter().map(|o| if let Output::Fetch { count, .. } = o { *count } else { 0 }).sum()
}

fn exits(outputs: &[Output]) -> Option<(i32, &str)> {
    outputs.iter().find_map(|o| if let Output::Exit { code, message } = o { Some((*code, message.as_str())) } else { None })
}

#[test]
fn an_end_is_acked_after_its_commit_and_not_before() {
    let sink = Remembers::default();
    let mut bench = Bench::open(&sink);
    for number in 0..9 {
        assert!(acks(&bench.bring(number, vec![1])).is_empty());
    }
    assert!(bench.work.is_none(), "neither enough ends nor enough time");
    bench.bring(9, vec![1]);
    assert!(bench.work.is_some(), "ten ends make a commit");
    assert!(acks(&bench.bring(10, vec![1])).is_empty());
    assert!(sink.0.lock().unwrap().kept.is_empty());
    assert_eq!(acks(&bench.finish_work()), (1..=10).collect::<Vec<_>>());
    assert_eq!(sink.0.lock().unwrap().kept.len(), 10);
    let report = bench.recorder.report();
    assert_eq!((report.done, report.waiting), (10, 1));
    assert_eq!((report.gauges["ends_committed"], report.gauges["bytes_written"], report.gauges["commit_seconds"]), (10.0, 100.0, 0.5));
}

#[test]
fn time_makes_a_commit_too() {
    let mut bench = Bench::open(&Remembers::default());
    bench.tick(5_000);
    assert!(bench.work.is_none(), "nothing waits");
    bench.bring(0, vec![1]);
    bench.tick(1_999);
    assert!(bench.work.is_none());
    bench.tick(1);
    assert_eq!(acks(&bench.finish_work()), vec![1]);
    bench.tick(10_000);
    assert!(bench.work.is_none());
}

#[test]
fn bytes_make_a_commit_and_bound_what_is_asked_for() {
    let mut bench = Bench::open(&Remembers::default());
    let payload = vec![0; COMMIT_BYTES / 2];
    bench.bring(0, payload.clone());
    assert!(bench.work.is_none());
    bench.bring(1, payload.clone());
    assert!(bench.work.is_some());
    let mut asked_after = 0;
    for number in 2..12 {
        asked_after += fetched(&bench.bring(number, payload.clone()));
    }
    assert!(bench.recorder.report().gauges["bytes_held"] >= BYTES_MAX as f64);
    // What was asked for before the size of ends was known is given up by the broker; nothing more is asked for then.
    let durable = Durable { stream: Stream::Ends, name: subjects::ENDS_RECORDER.into() };
    let given_up = bench.step(Input::FetchEnded { durable, missing: FETCH });
    assert_eq!((asked_after, fetched(&given_up)), (0, 0));
    assert_eq!(fetched(&bench.finish_work()), 0, "the other ten are still in hand");
    let after = bench.finish_work();
    assert!(fetched(&after) >= 1 && fetched(&after) < 10, "room for a few of that size: {}", fetched(&after));
}

#[test]
fn what_is_committed_is_dropped_and_acked_at_once() {
    let sink = Remembers::default();
    for number in 0..5 {
        sink.0.lock().unwrap().before.insert(id(number));
    }
    let mut bench = Bench::with(Box::new(sink.clone()));
    bench.step(Input::Started);
    // Before the manifest is known an end waits.
    assert!(acks(&bench.bring(3, vec![1])).is_empty());
    assert!(acks(&bench.bring(7, vec![1])).is_empty());
    assert_eq!(acks(&bench.finish_work()), vec![1]);
    assert_eq!(acks(&bench.bring(4, vec![1])), vec![3]);
    bench.tick(2_000);
    assert_eq!(acks(&bench.finish_work()), vec![2]);
    assert_eq!(acks(&bench.bring(7, vec![1])), vec![4]);
    assert_eq!(sink.0.lock().unwrap().kept, vec![id(7)]);
}

#[test]
fn a_redelivered_end_is_kept_once_and_acked_every_time() {
    let sink = Remembers::default();
    let mut bench = Bench::open(&sink);
    bench.bring(0, vec![1]);
    bench.bring(0, vec![1]);
    bench.tick(2_000);
    bench.bring(0, vec![1]);
    assert_eq!(acks(&bench.finish_work()), vec![1, 2, 3]);
    assert_eq!(sink.0.lock().unwrap().kept, vec![id(0)]);
}

#[test]
fn what_is_held_long_is_in_progress() {
    let mut bench = Bench::open(&Remembers::default());
    bench.bring(0, vec![1]);
    let progress = |outputs: &[Output]| outputs.iter().filter(|o| matches!(o, Output::Progress(Delivery(1)))).count();
    assert_eq!(progress(&bench.tick(2_900)), 0);
    assert_eq!(progress(&bench.tick(100)), 1);
    assert_eq!(progress(&bench.tick(2_900)), 0);
    assert_eq!(progress(&bench.tick(100)), 1);
    assert_eq!(acks(&bench.finish_work()), vec![1]);
    assert_eq!(progress(&bench.tick(9_000)), 0);
}

#[test]
fn a_drain_commits_what_waits_hands_back_the_rest_and_ends() {
    let sink = Remembers::default();
    let mut bench = Bench::open(&sink);
    bench.bring(0, vec![1]);
    let outputs = bench.step(Input::Drain);
    assert_eq!((exits(&outputs), fetched(&outputs)), (None, 0));
    let late = bench.bring(1, vec![1]);
    assert!(matches!(late[..], [Output::Nak { delivery: Delivery(2), .. }]), "{late:?}");
    let outputs = bench.finish_work();
    assert_eq!(acks(&outputs), vec![1]);
    assert_eq!(exits(&outputs).unwrap().0, 0);
    assert_eq!(sink.0.lock().unwrap().kept, vec![id(0)]);
    // The ack comes before the exit.
    assert!(matches!(outputs.last(), Some(Output::Exit { .. })));
}

#[test]
fn a_drain_with_nothing_in_hand_ends_at_once() {
    assert_eq!(exits(&Bench::open(&Remembers::default()).step(Input::Drain)).unwrap().0, 0);
    // While the manifest is being read it ends after that.
    let mut bench = Bench::with(Box::new(Remembers::default()));
    bench.step(Input::Started);
    assert!(exits(&bench.step(Input::Drain)).is_none());
    assert_eq!(exits(&bench.finish_work()).unwrap().0, 0);
}

#[test]
fn a_sink_that_fails_ends_the_stage_with_its_one_line() {
    let sink = Remembers::default();
    let mut bench = Bench::open(&sink);
    sink.0.lock().unwrap().fails = Some("no space left; hint: free some".into());
    bench.bring(0, vec![1]);
    bench.tick(2_000);
    let outputs = bench.finish_work();
    assert_eq!(exits(&outputs), Some((1, "no space left; hint: free some")));
    assert!(acks(&outputs).is_empty());
}

#[test]
fn what_cannot_be_read_is_rejected_whole_and_the_rest_is_kept() {
    let sink = Remembers::default();
    let mut bench = Bench::open(&sink);
    bench.bring(0, vec![1]);
    bench.bring(1, vec![2]);
    sink.0.lock().unwrap().refuses.insert(0, "no end".into());
    bench.tick(2_000);
    let outputs = bench.finish_work();
    assert_eq!(acks(&outputs), vec![2]);
    let rejected = outputs.iter().find_map(|o| if let Output::Reject { payload, reason, .. } = o { Some((payload, reason)) } else { None });
    assert_eq!(rejected, Some((&vec![1], &"no end".to_string())));
    assert!(outputs.iter().any(|o| matches!(o, Output::Term(Delivery(1)))));
    let nameless = bench.bring_on("errand.r.ends.nowhere.x".into(), vec![3]);
    assert!(matches!(nameless[0], Output::Reject { .. }) && matches!(nameless[1], Output::Term(Delivery(3))));
}

#[test]
fn it_keeps_asking() {
    let mut bench = Bench::with(Box::new(Remembers::default()));
    let mut asked = fetched(&bench.step(Input::Started));
    assert_eq!(asked, FETCH);
    asked += fetched(&bench.finish_work());
    for number in 0..2_000 {
        asked += fetched(&bench.bring(number, vec![1]));
        assert!(asked > number as u32 + 1, "a fetch is always under way");
        if bench.work.is_some() {
            asked += fetched(&bench.finish_work());
        }
    }
    let durable = Durable { stream: Stream::Ends, name: subjects::ENDS_RECORDER.into() };
    assert!(fetched(&bench.step(Input::FetchEnded { durable, missing: asked - 2_000 })) > 0);
}

#[test]
fn ends_reach_a_real_store_and_a_restart_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let identity = identity(folder.path());
    let payload = |number: u64| {
        let mut end = End::example();
        end.episode.id = id(number);
        encode(&end)
    };
    let mut sink = StoreSink::new(&identity);
    assert!(sink.open().unwrap().is_empty());
    let item = |number: u64, payload: Vec<u8>| Item { id: id(number), subject: subjects::ends("r", id(number)), payload };
    let batch = [item(0, payload(0)), item(1, vec![7]), item(2, payload(3)), item(3, payload(3))];
    let receipt = sink.commit(&batch, 1).unwrap();
    assert_eq!(receipt.episodes, 2);
    assert!(receipt.bytes > 0);
    assert_eq!(receipt.refused.keys().copied().collect::<Vec<_>>(), vec![1, 2]);
    assert!(receipt.refused[&2].contains("train.3"), "{receipt:?}");
    drop(sink);
    let again = StoreSink::new(&identity).open().unwrap();
    assert_eq!(again.split(Split::Train).ranges().collect::<Vec<_>>(), vec![(0, 0), (3, 3)]);
    assert!(folder.path().join("trajectories/manifest/r/00000000.json").exists());
}

#[test]
fn a_store_that_cannot_be_opened_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("trajectories"), b"a file").unwrap();
    let mut sink = StoreSink::new(&identity(folder.path()));
    let message = sink.open().unwrap_err();
    assert!(message.contains("hint:") && !message.contains('\n'), "{message}");
    let done = Box::new(Commit::Open(Box::new(sink))).run().into_any().downcast::<Done>().unwrap();
    assert!(matches!(*done, Done::Failed(line) if line == message));
}
