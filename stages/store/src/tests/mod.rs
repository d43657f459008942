//! The store against itself: what goes in comes out, and only what is committed.

mod bad_input;
mod crashes;
mod faulty;
mod s3;

use crate::{Entry, Error, Kind, Reader, Store, Writer};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use proptest::prelude::*;
use schemas::{
    End, EndReason, Episode, EpisodeId, F32s, Frame, ImageSpan, Label, Message, Mode, PolicyPin, SceneRef, Segment, Source, Split, Turn,
    TurnSpan, U32s,
};
use std::sync::Arc;

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn memory() -> Store {
    Store::over(Arc::new(InMemory::new()), "memory:", "r")
}

fn end(split: Split, number: u64) -> End {
    let mut end = End::example();
    end.episode.id = EpisodeId { split, number };
    end
}

fn ends(split: Split, numbers: std::ops::Range<u64>) -> Vec<End> {
    numbers.map(|number| end(split, number)).collect()
}

async fn all(store: &Store) -> Vec<End> {
    Reader::over(store.clone()).await.unwrap().trajectories().try_collect().await.unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("<|im_start|> \u{1F600}\n\"'\\ ü".to_string()), "[a-z_/0-9]{1,12}"]
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0f32), Just(-0.0), Just(f32::MIN_POSITIVE), Just(f32::NEG_INFINITY), -100.0f32..100.0]
}

fn span() -> impl Strategy<Value = TurnSpan> {
    let places = (any::<[u32; 3]>(), 0u32..1000, 0u32..1000, any::<[bool; 3]>());
    (places, prop::collection::vec((any::<u64>(), any::<u32>()), 0..3)).prop_map(|((at, reply, more, flags), versions)| TurnSpan {
        turn: at[0],
        start: at[1],
        reply,
        end: reply + more,
        close: at[2],
        trainable: flags[0],
        source: if flags[1] { Source::Policy } else { Source::Expert },
        versions,
        cut: flags[2],
    })
}

fn segment() -> impl Strategy<Value = Segment> {
    let ids = || prop::collection::vec(any::<u32>(), 0..20).prop_map(U32s);
    let image = (any::<[u32; 5]>(), text()).prop_map(|(n, digest)| ImageSpan { offset: n[0], len: n[1], grid: [n[2], n[3], n[4]], digest });
    let label = (any::<[u32; 2]>(), ids()).prop_map(|(n, tokens)| Label { turn: n[0], after: n[1], tokens });
    let lists = (prop::collection::vec(span(), 0..4), prop::collection::vec(image, 0..3), prop::collection::vec(label, 0..3));
    let logprobs = prop::collection::vec(number(), 0..8).prop_map(F32s);
    (any::<[u32; 3]>(), ids(), logprobs, lists).prop_map(|(n, tokens, logprobs, (turns, images, labels))| Segment {
        number: n[0],
        tokens,
        logprobs,
        turns,
        images,
        labels,
        prompt_end: n[1],
        turn_start: n[2],
    })
}

/// `shown`: digests that the turn shows, of those that the episode may have kept.
fn turn() -> impl Strategy<Value = Turn> {
    let texts = || prop::collection::vec(text(), 0..3);
    let said = (text(), text(), texts(), texts(), text());
    let trail = prop::collection::vec((text(), any::<u64>(), any::<u64>()), 0..3);
    let shown = prop::collection::vec(0u8..4, 0..3);
    let counts = (any::<[u32; 3]>(), any::<u64>(), any::<[bool; 2]>(), prop::collection::vec(any::<bool>(), 0..3));
    (said, number(), counts, shown, trail).prop_map(
        |((observation, reply, executed, dropped, state_key), reward, (n, version, flags, worked), shown, trail)| Turn {
            turn: n[0],
            observation,
            reply,
            executed,
            worked,
            dropped,
            well_formed: flags[0],
            reward,
            state_key,
            frames: shown.into_iter().map(|n| format!("digest{n}")).collect(),
            cut: flags[1],
            version,
            reply_tokens: n[1],
            prompt_tokens: n[2],
            trail,
        },
    )
}

fn episode() -> impl Strategy<Value = Episode> {
    let pin = prop_oneof![Just(PolicyPin::Latest), any::<u64>().prop_map(PolicyPin::AtLeast), any::<u64>().prop_map(PolicyPin::Exactly)];
    let mode = prop::sample::select(vec![Mode::Policy, Mode::Dagger, Mode::Expert, Mode::Format]);
    let scene = prop::option::of((text(), text()).prop_map(|(digest, origin)| SceneRef { digest, origin }));
    (any::<[u64; 5]>(), any::<[u32; 4]>(), [text(), text(), text(), text()], mode, pin, scene).prop_map(
        |(n, m, [world, task, bucket, traceparent], mode, policy, scene)| Episode {
            id: EpisodeId { split: Split::Train, number: 0 },
            group: n[0],
            member: m[0],
            group_size: m[1],
            world,
            seed: n[1],
            mode,
            policy,
            task: task.into_bytes(),
            scene,
            bucket,
            expert_length: m[2],
            validates: n[2],
            handed_back: m[3],
            epoch: n[3],
            traceparent,
        },
    )
}

/// Pictures as a stepper keeps them: each once, in the order in which turns first show them, and some not at all.
fn kept(turns: &[Turn], keeps: [bool; 4]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for digest in turns.iter().flat_map(|turn| &turn.frames) {
        let number: usize = digest.trim_start_matches("digest").parse().unwrap();
        if keeps[number] && frames.iter().all(|frame| frame.digest != *digest) {
            frames.push(Frame {
                digest: digest.clone(),
                png: vec![number as u8; number * 3],
                width: 2,
                height: number as u32,
                camera: "navigation".into(),
            });
        }
    }
    frames
}

fn any_end() -> impl Strategy<Value = End> {
    let lists = (prop::collection::vec(turn(), 0..4), prop::collection::vec(segment(), 0..3), any::<[bool; 4]>());
    let rewards = prop::collection::vec((text(), number()), 0..3);
    let milestones = prop::collection::vec(text(), 0..3);
    let reason = prop::sample::select(EndReason::ALL.to_vec());
    let rest = ([text(), text()], any::<[u32; 2]>(), any::<[bool; 2]>(), number(), [0u64..i64::MAX as u64, 0u64..i64::MAX as u64]);
    (episode(), lists, rewards, milestones, reason, rest).prop_map(
        |(episode, (turns, segments, keeps), rewards, milestones, reason, rest)| {
            let ([stepper, note], n, flags, progress, [started_us, ended_us]) = rest;
            End {
                episode,
                attempt: n[0],
                stepper,
                reason,
                note,
                success: flags[0],
                lenient: flags[1],
                rewards,
                progress,
                milestones,
                steps: n[1],
                frames: kept(&turns, keeps),
                turns,
                segments,
                started_us,
                ended_us,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn ends_come_back_as_they_went_in(mut batch in prop::collection::vec((any_end(), 0u8..3), 0..6)) {
        for (at, (end, split)) in batch.iter_mut().enumerate() {
            end.episode.id = EpisodeId { split: Split::ALL[*split as usize], number: at as u64 };
        }
        let mut written: Vec<End> = batch.into_iter().map(|(end, _)| end).collect();
        let store = memory();
        run(async {
            let entry = Writer::open(store.clone(), "w").await.unwrap().commit(&written, 1).await.unwrap();
            prop_assert_eq!(entry.is_none(), written.is_empty());
            let mut read = all(&store).await;
            written.sort_by_key(End::id);
            read.sort_by_key(End::id);
            prop_assert_eq!(&read, &written);
            let reader = Reader::over(store.clone()).await.unwrap();
            let summaries: Vec<_> = reader.summaries().try_collect().await.unwrap();
            prop_assert_eq!(summaries.len(), written.len());
            for summary in &summaries {
                let end = written.iter().find(|end| end.id() == summary.id).unwrap();
                prop_assert_eq!(summary.versions, end.versions());
                prop_assert_eq!(summary.policy_tokens + summary.expert_tokens + summary.label_tokens, end.trained_tokens());
                let whole = reader.end(summary.id).await.unwrap();
                prop_assert_eq!(whole.as_ref(), Some(end));
                prop_assert_eq!(summary.turns as usize, end.turns.len());
                let turns = reader.turns(end.id()).await.unwrap();
                prop_assert_eq!(&turns, &end.turns);
                let pictured = reader.pictured_turns(end.id()).await.unwrap();
                prop_assert_eq!(pictured.into_iter().map(|row| row.turn).collect::<Vec<_>>(), turns);
            }
            Ok(())
        })?;
    }
}

#[test]
fn an_empty_batch_commits_nothing() {
    let store = memory();
    run(async {
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        assert_eq!(writer.commit(&[], 1).await.unwrap(), None);
        let reader = Reader::over(store).await.unwrap();
        assert!(reader.entries().is_empty() && reader.committed().is_empty());
        assert_eq!(reader.end(EpisodeId { split: Split::Val, number: 0 }).await.unwrap(), None);
    });
}

#[test]
fn an_episode_is_committed_once_by_whoever_brings_it() {
    let store = memory();
    run(async {
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        let twice = [end(Split::Train, 0), end(Split::Train, 0), end(Split::Val, 0)];
        assert_eq!(writer.commit(&twice, 1).await.unwrap().unwrap().trajectories(), 2);
        assert_eq!(writer.commit(&twice, 2).await.unwrap(), None);
        // A writer of the same name that starts anew knows what is committed and takes other file names.
        let mut again = Writer::open(store.clone(), "w").await.unwrap();
        assert_eq!(again.committed().len(), 2);
        assert_eq!(again.commit(&ends(Split::Train, 0..3), 3).await.unwrap().unwrap().trajectories(), 2);
        assert_eq!(all(&store).await.len(), 4);
    });
}

#[test]
fn of_two_writers_each_commits_what_the_other_has_not() {
    let store = memory();
    run(async {
        let mut first = Writer::open(store.clone(), "a").await.unwrap();
        let mut second = Writer::open(store.clone(), "b").await.unwrap();
        // Both take number 0 for theirs. What they bring meets in episodes 2 and 3.
        let won = first.commit(&ends(Split::Train, 0..4), 1).await.unwrap().unwrap();
        let lost = second.commit(&ends(Split::Train, 2..6), 2).await.unwrap().unwrap();
        assert_eq!((won.number, won.trajectories(), lost.number, lost.trajectories()), (0, 4, 1, 2));
        // The loser of a race without common episodes keeps its files.
        let next = first.commit(&ends(Split::Train, 6..8), 3).await.unwrap().unwrap();
        assert_eq!((next.number, next.trajectories()), (2, 2));
        // The loser's first files, which held episodes of both, are gone.
        let reader = Reader::over(store.clone()).await.unwrap();
        assert!(reader.invisible(0).await.unwrap().is_empty());
        assert_eq!(reader.committed().split(Split::Train).ranges().collect::<Vec<_>>(), vec![(0, 7)]);
        assert_eq!(all(&store).await.len(), 8);
        assert_eq!(second.commit(&ends(Split::Train, 0..8), 4).await.unwrap(), None);
    });
}

#[test]
fn writers_at_the_same_time_lose_nothing_and_repeat_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let threads: Vec<_> = (0..4u64)
        .map(|name| {
            let store = Store::open(&url, "r").unwrap();
            std::thread::spawn(move || {
                run(async {
                    let mut writer = Writer::open(store, &format!("w{name}")).await.unwrap();
                    for part in 0..6u64 {
                        // Neighbours bring half of the same episodes.
                        let first = (name + part * 4) * 3;
                        writer.commit(&ends(Split::Expert, first..first + 6), part).await.unwrap();
                    }
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    run(async {
        let store = Store::open(&url, "r").unwrap();
        let mut numbers: Vec<u64> = all(&store).await.iter().map(|end| end.id().number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..75).collect::<Vec<_>>());
        assert!(Reader::over(store).await.unwrap().invisible(0).await.unwrap().is_empty());
    });
}

#[test]
fn a_crash_between_file_and_manifest_leaves_only_an_invisible_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().display().to_string();
    run(async {
        let store = Store::open(&url, "r").unwrap();
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        writer.commit(&ends(Split::Train, 0..2), 1).await.unwrap();
        writer.commit(&ends(Split::Train, 2..5), 2).await.unwrap();
        // The second commit without its entry is what a crash leaves.
        std::fs::remove_file(folder.path().join("manifest/r/00000001.json")).unwrap();
        let mut reader = Reader::over(store.clone()).await.unwrap();
        assert_eq!(reader.committed().len(), 2);
        assert_eq!(all(&store).await.len(), 2);
        assert_eq!(reader.invisible(0).await.unwrap().len(), 2);
        let mut restarted = Writer::open(store.clone(), "w").await.unwrap();
        let entry = restarted.commit(&ends(Split::Train, 0..5), 3).await.unwrap().unwrap();
        assert_eq!((entry.number, entry.trajectories()), (1, 3));
        assert_eq!(all(&store).await.len(), 5);
        let later = 1_000_000 * 60 * 60 * 24 * 365 * 200;
        assert_eq!(reader.sweep(3600.0, 0).await.unwrap(), 0);
        assert_eq!(reader.sweep(3600.0, later).await.unwrap(), 2);
        assert_eq!((reader.committed().len(), all(&store).await.len()), (5, 5));
    });
}

#[test]
fn runs_in_one_store_do_not_meet() {
    let object = Arc::new(InMemory::new());
    let (a, b) = (Store::over(object.clone(), "memory:", "a"), Store::over(object, "memory:", "b"));
    run(async {
        Writer::open(a.clone(), "w").await.unwrap().commit(&ends(Split::Train, 0..3), 1).await.unwrap();
        Writer::open(b.clone(), "w").await.unwrap().commit(&ends(Split::Train, 0..2), 1).await.unwrap();
        assert_eq!((all(&a).await.len(), all(&b).await.len()), (3, 2));
    });
}

#[test]
fn a_gap_a_lost_file_and_a_broken_one_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().display().to_string(), "r").unwrap();
    run(async {
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        let entry = writer.commit(&ends(Split::Train, 0..2), 1).await.unwrap().unwrap();
        writer.commit(&ends(Split::Train, 2..3), 1).await.unwrap();
        let reader = Reader::over(store.clone()).await.unwrap();
        let file = reader.files(Kind::Trajectories).next().unwrap().clone();
        assert_eq!(file, entry.files[0]);
        std::fs::write(folder.path().join(&file.path), b"PAR1").unwrap();
        assert!(matches!(reader.file_summaries(&file).await, Err(Error::Malformed { path, .. }) if path == file.path));
        std::fs::remove_file(folder.path().join(&file.path)).unwrap();
        assert!(matches!(reader.file_summaries(&file).await, Err(Error::Read { path, .. }) if path == file.path));
        std::fs::remove_file(folder.path().join(Entry::path("r", 0))).unwrap();
        assert!(matches!(Reader::over(store.clone()).await, Err(Error::Malformed { path, .. }) if path == Entry::path("r", 1)));
    });
}

#[test]
fn a_place_that_cannot_be_written_is_one_clear_line_and_nothing_visible() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().display().to_string(), "r").unwrap();
    run(async {
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        // A file where the folder of turns belongs: the file of trajectories is written before that is found out.
        std::fs::write(folder.path().join("turns"), b"").unwrap();
        let error = writer.commit(&ends(Split::Train, 0..2), 1).await.unwrap_err().to_string();
        assert!(error.contains("cannot write `turns/run=r/split=train/w-") && !error.contains('\n'), "{error}");
        std::fs::remove_file(folder.path().join("turns")).unwrap();
        let reader = Reader::over(store).await.unwrap();
        assert!(reader.committed().is_empty() && reader.invisible(0).await.unwrap().is_empty());
        assert_eq!(writer.commit(&ends(Split::Train, 0..2), 2).await.unwrap().unwrap().trajectories(), 2);
    });
}
