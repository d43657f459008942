//! Two recorders over one real store, on the simulated broker: crashes, a partition longer than the ack wait, redelivery.

use crate::{NAME, Recorder, StoreSink};
use kit::sim::{Crash, Faults, Partition, Sim};
use kit::stage::{Identity, Stage};
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, ENDS_RECORDER, Stream};
use schemas::{End, EpisodeId, Message, Split, encode};
use std::collections::BTreeMap;
use std::path::Path;
use store::Reader;

const ENDS: u64 = 240;
/// Virtual time between two ends.
const PACE_MS: u64 = 50;

fn pipeline(store: &Path) -> Pipeline {
    let text = format!(
        "name = \"sim\"\nschedule = []\nworld = {{ name = \"frozenlake\" }}\nrecord = {{ url = \"{}\", commit_episodes = 20, commit_s = 1.0 }}\nbroker = {{ ack_wait_s = 2.0 }}\n",
        store.display()
    );
    Pipeline::parse(&text).unwrap()
}

fn make(identity: Identity) -> Box<dyn Stage> {
    let sink = StoreSink::new(&identity);
    Box::new(Recorder::new(&identity, Box::new(sink)))
}

/// When nothing waits for a recorder any more, every end is committed once, whatever has happened.
fn check(seed: u64, faults: Faults) -> Sim {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut sim = Sim::with_pipeline(seed, faults, pipeline(&store));
    sim.add(&format!("{NAME}-1"), make);
    sim.add(&format!("{NAME}-2"), make);
    for number in 0..ENDS {
        let id = EpisodeId { split: Split::ALL[(number % 3) as usize], number: number / 3 };
        let mut end = End::example();
        end.episode.id = id;
        sim.publish_durable(&subjects::ends(kit::sim::RUN, id), BTreeMap::new(), encode(&end)).unwrap();
        sim.run_until(|_| false, number * PACE_MS);
    }
    let quiet = |sim: &Sim| {
        let held: u64 = ["recorder-1", "recorder-2"].iter().filter_map(|name| sim.report(name)).map(|report| report.waiting).sum();
        sim.unacked(Stream::Ends, ENDS_RECORDER) == 0 && held == 0
    };
    sim.run_until(|_| false, sim.now_ms() + 5_000);
    assert!(sim.run_until(quiet, sim.now_ms() + 60_000), "seed {seed}: ends are still held");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = store.display().to_string();
    let reader = runtime.block_on(Reader::open(&url, kit::sim::RUN)).unwrap();
    for split in Split::ALL {
        let ranges: Vec<_> = reader.committed().split(split).ranges().collect();
        assert_eq!(ranges, vec![(0, ENDS / 3 - 1)], "seed {seed}, {split}");
    }
    let rows: u64 = reader.entries().iter().map(store::Entry::trajectories).sum();
    assert_eq!(rows, ENDS, "seed {seed}");
    sim
}

#[test]
fn two_recorders_share_the_work() {
    let sim = check(1, Faults::default());
    for name in ["recorder-1", "recorder-2"] {
        assert!(sim.report(name).unwrap().done > 0, "{name} has committed something");
    }
}

#[test]
fn each_end_is_committed_once_whatever_happens() {
    for seed in 0..3 {
        let crash = |at_ms, name: &str| Crash { at_ms, name: name.into(), restart_after_ms: Some(300) };
        let faults = Faults {
            delay_ms: 0.5..=40.0,
            work_ms: 150.0,
            crashes: vec![crash(1_100 + 170 * seed, "recorder-1"), crash(2_900 + 90 * seed, "recorder-2"), crash(6_000, "recorder-1")],
            partitions: vec![Partition { name: "recorder-2".into(), from_ms: 4_000 + 100 * seed, to_ms: 9_000 }],
            ..Faults::default()
        };
        check(seed, faults);
    }
}
