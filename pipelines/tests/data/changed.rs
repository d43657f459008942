//! Records that were changed: in a byte of a file, and in what a file says with all its digests right.

use crate::{LAKE, errand, forge, printed, record};
use schemas::{End, EndReason};
use std::path::{Path, PathBuf};

fn parquet(folder: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "parquet")).unwrap()
}

/// What `errand replay` prints where something differs.
fn differing(home: &Path, run: &str) -> String {
    let output = errand(home, &["replay", run]);
    assert_eq!(output.status.code(), Some(1), "run {run} is as it was");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_changed_byte_in_a_file_is_found_and_the_file_named() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "r", 8);
    for table in ["trajectories", "turns"] {
        let path = parquet(&home.path().join("runs/r/trajectories").join(table));
        let whole = std::fs::read(&path).unwrap();
        for at in [4, whole.len() / 2, whole.len() - 9] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let told = differing(home.path(), "r");
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(told.contains(&*name) && told.contains("a byte of it has changed"), "{told}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    assert!(printed(home.path(), &["replay", "r"]).contains(": 0 differ"));
}

type Change = fn(&mut End);

/// Each with how `errand replay` begins to name it, after the episode's name.
const CHANGES: [(&str, Change); 10] = [
    ("turn 1: the reward", |end| end.turns[1].reward += 0.25),
    ("turn 0: what was executed", |end| end.turns[0].executed[0] = "Sideways".into()),
    ("turn 1: the observation", |end| end.turns[1].observation.push('!')),
    ("turn 0: the state", |end| end.turns[0].state_key = "0".repeat(16)),
    ("turn 1: the pictures' digests", |end| end.turns[1].frames[0] = end.turns[0].frames[0].clone()),
    ("a picture's digest", |end| end.frames[0].png[50] ^= 1),
    ("a part of the reward", |end| end.rewards[0].1 += 1.0),
    ("success", |end| end.success = !end.success),
    ("the reason of the end", |end| end.reason = EndReason::OutOfSteps),
    ("the number of steps", |end| end.steps += 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_action_reward_or_picture_is_found_and_named() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "r", 8);
    for (number, (name, change)) in CHANGES.into_iter().enumerate() {
        let run = format!("forged-{number}");
        forge(home.path(), "r", &run, |ends| {
            change(ends.iter_mut().find(|end| end.turns.len() > 1).expect("an episode of two turns"));
        })
        .await;
        let told = differing(home.path(), &run);
        assert!(told.lines().any(|line| line.contains(&format!(": {name}"))), "wanted {name}: {told}");
        assert!(told.contains(": 1 differ"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_action_in_a_reply_leads_elsewhere_and_is_named() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "r", 8);
    forge(home.path(), "r", "forged", |ends| {
        let end = ends.iter_mut().find(|end| end.turns.len() > 1).expect("an episode of two turns");
        let other = if end.turns[0].executed[0] == "Up" { "Down" } else { "Up" };
        end.turns[0].reply = end.turns[0].reply.replace(&end.turns[0].executed[0].clone(), other);
    })
    .await;
    let told = differing(home.path(), "forged");
    assert!(told.contains("turn 0: what was executed"), "{told}");
}
