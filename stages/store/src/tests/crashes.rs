//! A writer dies at every boundary of a write. What is visible is whole, nothing is lost, nothing is there twice.

use super::faulty::{Failure, Faulty};
use super::{all, end, ends, run};
use crate::{Compaction, Kind, Reader, Store, Writer};
use object_store::memory::InMemory;
use proptest::prelude::*;
use schemas::Split;
use std::sync::Arc;

/// All small files, however few.
const EVERYTHING: Compaction = Compaction { under_bytes: u64::MAX, at_least: 2, upto_bytes: u64::MAX };

/// One thing that a writer does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Commits these numbers of a split.
    Commit(Split, u64, u64),
    Compact,
}

async fn perform(writer: &mut Writer, act: Act) -> Result<(), crate::Error> {
    match act {
        Act::Commit(split, first, count) => writer.commit(&ends(split, first..first + count), 1).await.map(|_| ()),
        Act::Compact => writer.compact(EVERYTHING, 1).await.map(|_| ()),
    }
}

/// Every visible file is whole, every committed episode is read once, and all that was acknowledged is there.
async fn check(object: &Arc<InMemory>, acknowledged: &[(Split, u64)]) {
    let store = Store::over(object.clone(), "memory:", "r");
    let reader = Reader::over(store.clone()).await.expect("whatever died, the manifest reads");
    for kind in [Kind::Trajectories, Kind::Turns] {
        for file in reader.files(kind) {
            reader.verify(file).await.expect("a visible file is whole");
        }
    }
    let mut read: Vec<(Split, u64)> = all(&store).await.iter().map(|end| (end.id().split, end.id().number)).collect();
    read.sort_unstable();
    let once = read.len();
    read.dedup();
    assert_eq!((once as u64, read.len() as u64), (reader.committed().len(), reader.committed().len()), "none twice, none lost");
    for id in acknowledged {
        assert!(read.binary_search(id).is_ok(), "{id:?} was acknowledged and is lost");
    }
}

/// A writer does `acts`, dies at change `at`, and another one does all of it again. Says whether it died at all.
async fn crash_at(acts: &[Act], at: u64, failure: Failure) -> bool {
    let object = Arc::new(InMemory::new());
    let faulty = Faulty::new(object.clone(), at, failure);
    let mut acknowledged = Vec::new();
    let mut died = false;
    let dying = Store::over(Arc::new(faulty.clone()), "memory:", "r");
    if let Ok(mut writer) = Writer::open(dying, "w").await {
        for act in acts {
            died = perform(&mut writer, *act).await.is_err();
            if died {
                break;
            }
            if let Act::Commit(split, first, count) = *act {
                acknowledged.extend((first..first + count).map(|number| (split, number)));
            }
        }
    }
    check(&object, &acknowledged).await;
    // What was not acknowledged is delivered again, to another recorder of the same name.
    let mut again = Writer::open(Store::over(object.clone(), "memory:", "r"), "w").await.unwrap();
    for act in acts {
        perform(&mut again, *act).await.unwrap();
        if let Act::Commit(split, first, count) = *act {
            acknowledged.extend((first..first + count).map(|number| (split, number)));
        }
    }
    check(&object, &acknowledged).await;
    died
}

#[test]
fn a_death_at_any_write_leaves_nothing_torn_lost_or_twice() {
    use Act::{Commit, Compact};
    let acts =
        [Commit(Split::Train, 0, 3), Commit(Split::Val, 0, 1), Commit(Split::Train, 3, 2), Compact, Commit(Split::Train, 5, 1), Compact];
    run(async {
        for failure in [Failure::Before, Failure::After] {
            let mut at = 0;
            while crash_at(&acts, at, failure).await {
                at += 1;
            }
            // Four commits and two compactions write two files and an entry each.
            assert!(at >= 17, "only {at} boundaries were tried");
        }
    });
}

fn act() -> impl Strategy<Value = Act> {
    let split = prop_oneof![Just(Split::Train), Just(Split::Expert)];
    prop_oneof![3 => (split, 0u64..12, 1u64..5).prop_map(|(s, first, count)| Act::Commit(s, first, count)), 1 => Just(Act::Compact)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_work_survives_any_death(acts in prop::collection::vec(act(), 1..7), at in 0u64..24, after: bool) {
        run(crash_at(&acts, at, if after { Failure::After } else { Failure::Before }));
    }

    #[test]
    fn two_writers_that_take_turns_lose_nothing(acts in prop::collection::vec((act(), any::<bool>()), 1..10)) {
        run(async {
            let object = Arc::new(InMemory::new());
            let store = Store::over(object.clone(), "memory:", "r");
            let mut writers = [Writer::open(store.clone(), "a").await.unwrap(), Writer::open(store, "b").await.unwrap()];
            let mut acknowledged = Vec::new();
            for (act, second) in acts {
                perform(&mut writers[usize::from(second)], act).await.unwrap();
                if let Act::Commit(split, first, count) = act {
                    acknowledged.extend((first..first + count).map(|number| (split, number)));
                }
            }
            check(&object, &acknowledged).await;
        });
    }
}

#[test]
fn compaction_changes_nothing_but_the_number_of_files() {
    let store = super::memory();
    run(async {
        let mut writer = Writer::open(store.clone(), "w").await.unwrap();
        for number in 0..10 {
            writer.commit(&[end(Split::Train, number), end(Split::Val, number)], 1).await.unwrap();
        }
        let before = all(&store).await;
        assert!(writer.compact(Compaction { at_least: 11, ..EVERYTHING }, 2).await.unwrap().is_none());
        let mut reader = Reader::over(store.clone()).await.unwrap();
        let entry = writer.compact(EVERYTHING, 2).await.unwrap().unwrap();
        assert_eq!((entry.replaces.len(), entry.files.len()), (20, 2));
        writer.compact(EVERYTHING, 2).await.unwrap().unwrap();
        let (mut after, mut expected) = (all(&store).await, before);
        after.sort_by_key(schemas::End::id);
        expected.sort_by_key(schemas::End::id);
        assert_eq!(after, expected);
        reader.refresh().await.unwrap();
        assert_eq!((reader.files(Kind::Turns).count(), reader.committed().len()), (2, 20));
        // What was replaced stays until it is swept.
        assert_eq!(reader.invisible(0).await.unwrap().len(), 40);
        let later = 1_000_000 * 60 * 60 * 24 * 365 * 200;
        assert_eq!(reader.sweep(3600.0, later).await.unwrap(), 40);
        assert_eq!(all(&store).await.len(), 20);
        assert!(writer.compact(EVERYTHING, 3).await.unwrap().is_none(), "one file a table and split is not compacted again");
    });
}

#[test]
fn a_full_disk_and_a_bucket_that_says_no_are_named() {
    let says = [
        ("No space left on device (os error 28)", "free some space"),
        ("Client error with status 403 Forbidden: AccessDenied", "make it writable"),
    ];
    for (reason, hint) in says {
        let object = Arc::new(InMemory::new());
        run(async {
            for at in 0..3 {
                let faulty = Faulty::new(object.clone(), at, Failure::Before).saying(reason);
                let store = Store::over(Arc::new(faulty.clone()), "s3://b/t", "r");
                let mut writer = Writer::open(store, "w").await.unwrap();
                let error = writer.commit(&ends(Split::Train, 0..2), 1).await.unwrap_err().to_string();
                assert!(error.contains(reason) && error.contains(hint) && error.contains("s3://b/t") && !error.contains('\n'), "{error}");
                assert!(faulty.count() > at);
                check(&object, &[]).await;
            }
        });
    }
}
