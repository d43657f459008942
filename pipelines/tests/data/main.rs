//! The data commands, with the real program: what `errand imitate` records is listed, shown, exported and lived again, and
//! whatever was changed in the record is named.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod changed;
mod fetch;
mod imported;
mod queried;

use futures::TryStreamExt;
use schemas::End;
use std::path::Path;
use std::process::{Command, Output};
use store::{Reader, Store, Writer};

/// A lake with a picture a turn.
pub(crate) const LAKE: &str = r#"
name = "lake"
[world]
name = "frozenlake"
pictures = true
settings = { size = 4, frozen_probability = 0.8 }
[prompt]
actions_per_turn = 1
action_separator = "|"
observation_tokens = 200
segment_tokens = 2048
system = true
[limits]
steps = 30
turns = 10
reply_tokens = 24
episode_tokens = 16000
[policy]
vocabulary = 640
[[schedule]]
phase = "imitation"
batches = 1
batch = 4
"#;

/// Runs `errand` in a folder of its own.
pub(crate) fn errand(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_errand"))
        .current_dir(home)
        .args(["--runs", "runs"])
        .args(arguments)
        .env_remove("NATS_URL")
        .output()
        .expect("errand was built with this test")
}

/// What a command that must go well prints.
pub(crate) fn printed(home: &Path, arguments: &[&str]) -> String {
    let output = errand(home, arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "errand {arguments:?}: {told}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("errand prints UTF-8")
}

/// The one line with which a command refuses.
pub(crate) fn refusal(home: &Path, arguments: &[&str]) -> String {
    let output = errand(home, arguments);
    assert_eq!(output.status.code(), Some(1), "errand {arguments:?} went well");
    let told = String::from_utf8(output.stderr).expect("errand prints UTF-8");
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    assert!(told.starts_with("errand: error: "), "{told}");
    told
}

/// Records `episodes` of a pipeline as a run.
pub(crate) fn record(home: &Path, pipeline: &str, run: &str, episodes: u64) -> serde_json::Value {
    let file = home.join(format!("{run}.toml"));
    std::fs::write(&file, pipeline).expect("the folder is the test's own");
    let line = printed(home, &["imitate", &file.display().to_string(), "--run", run, "--episodes", &episodes.to_string()]);
    serde_json::from_str(&line).expect("imitate prints JSON")
}

pub(crate) fn store(home: &Path, run: &str) -> Store {
    Store::open(&home.join("runs").join(run).join("trajectories").display().to_string(), run).expect("a folder is a store")
}

/// Every trajectory of a run, in order.
pub(crate) async fn all(home: &Path, run: &str) -> Vec<End> {
    let reader = Reader::over(store(home, run)).await.expect("the run was recorded");
    let mut ends: Vec<End> = reader.trajectories().try_collect().await.expect("the run reads");
    ends.sort_by_key(End::id);
    ends
}

/// The same run under another name, with its trajectories changed.
pub(crate) async fn forge(home: &Path, from: &str, to: &str, change: impl Fn(&mut Vec<End>)) {
    let mut ends = all(home, from).await;
    change(&mut ends);
    let folder = home.join("runs").join(to);
    std::fs::create_dir_all(&folder).expect("the folder is the test's own");
    std::fs::copy(home.join("runs").join(from).join("pipeline.toml"), folder.join("pipeline.toml")).expect("it is there");
    Writer::open(store(home, to), "forger").await.expect("a new store").commit(&ends, 1).await.expect("it takes them");
}

#[test]
fn a_recording_is_listed_shown_and_lived_again_and_threads_change_nothing() {
    let home = tempfile::tempdir().unwrap();
    let said = record(home.path(), LAKE, "one", 70);
    assert_eq!(said["figures"]["episodes"], 70);
    let listed = printed(home.path(), &["data", "ls"]);
    let row = listed.lines().find(|line| line.contains("one")).unwrap();
    assert!(row.contains("70"), "{listed}");
    let whole = printed(home.path(), &["data", "ls", "one"]);
    for part in ["episodes", "expert", "frozenlake", "done", "tokens that can be trained"] {
        assert!(whole.contains(part), "{part} in {whole}");
    }
    let shown = printed(home.path(), &["data", "show", "one", "expert.3", "--pictures", "shown"]);
    assert!(shown.contains("episode   expert.3 of frozenlake") && shown.contains("--- turn 0"), "{shown}");
    let pictures = std::fs::read_dir(home.path().join("shown")).unwrap().count();
    assert!(pictures > 0);
    let replayed = printed(home.path(), &["replay", "one"]);
    assert!(replayed.contains("70 episodes") && replayed.contains(": 0 differ"), "{replayed}");

    // One thread and two record the same; asked for more, only what is missing is made.
    let file = home.path().join("one.toml").display().to_string();
    printed(home.path(), &["imitate", &file, "--run", "two", "--episodes", "70", "--threads", "1"]);
    let timeless = |ends: Vec<End>| -> Vec<End> {
        ends.into_iter()
            .map(|mut end| {
                (end.started_us, end.ended_us) = (0, 0);
                end.turns.iter_mut().for_each(|turn| turn.trail.clear());
                end
            })
            .collect()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one, two) = runtime.block_on(async { (all(home.path(), "one").await, all(home.path(), "two").await) });
    assert_eq!(timeless(one), timeless(two));
    assert_eq!(record(home.path(), LAKE, "one", 80)["figures"]["episodes"], 10);
    assert_eq!(runtime.block_on(all(home.path(), "one")).len(), 80);
}

#[test]
fn pictures_that_were_not_kept_are_rendered_again_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "with", 12);
    record(home.path(), &format!("{LAKE}[record]\npictures = \"none\"\n"), "without", 12);
    let (mut shown, mut sizes) = (Vec::new(), Vec::new());
    for run in ["with", "without"] {
        let folder = home.path().join(format!("pictures-{run}"));
        printed(home.path(), &["data", "show", run, "expert.2", "--pictures", &folder.display().to_string()]);
        let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .map(|file| (file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).unwrap()))
            .collect();
        files.sort();
        shown.push(files);
        let turns = home.path().join(format!("runs/{run}/trajectories/turns/run={run}/split=expert"));
        sizes.push(std::fs::read_dir(turns).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum::<u64>());
    }
    assert!(!shown[0].is_empty() && shown[0] == shown[1]);
    assert!(sizes[1] * 4 < sizes[0], "{sizes:?}");
    let replayed = printed(home.path(), &["replay", "without"]);
    assert!(replayed.contains(": 0 differ"), "{replayed}");
}

#[test]
fn every_export_keeps_its_splits_apart_and_writes_over_nothing() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), &format!("{LAKE}[record]\npictures = \"none\"\n"), "r", 60);
    for format in ["verl", "messages", "sharegpt", "lerobot"] {
        let arguments = ["export", "r", "--to", format, "--out", format, "--val", "0.3", "--success"];
        let told = printed(home.path(), &arguments);
        let count = |split: &str| -> u64 {
            let line = told.lines().find_map(|line| line.strip_prefix(&format!("{split}: "))).unwrap_or_default();
            line.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        assert!(count("train") > count("val") && count("val") > 0, "{told}");
        let card = std::fs::read_to_string(home.path().join(format).join("README.md")).unwrap();
        assert!(card.contains("--to") && card.contains(&format!("| train | {} |", count("train"))), "{card}");
        assert!(refusal(home.path(), &arguments).contains("not empty"));
        open_with_python(home.path(), format);
    }
    let none = refusal(home.path(), &["export", "r", "--to", "verl", "--out", "none", "--min-steps", "31"]);
    assert!(none.contains("no trajectory passes the filters"), "{none}");
    let off = refusal(home.path(), &["export", "r", "--to", "verl", "--out", "off", "--val", "1.5"]);
    assert!(off.contains("`--val` is 1.5"), "{off}");
}

/// With `ERRAND_PYTHON`, a Python that has pyarrow, pandas, duckdb, datasets and pillow.
fn open_with_python(home: &Path, format: &str) {
    let Ok(python) = std::env::var("ERRAND_PYTHON") else {
        println!("not opened: ERRAND_PYTHON names no Python; hint: one with pyarrow, pandas, duckdb, datasets and pillow");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/open_export.py");
    let said = Command::new(&python)
        .arg(&script)
        .args([format, &home.join(format).display().to_string(), "--run", "r", "--store"])
        .arg(home.join("runs/r/trajectories"))
        .env("HF_HOME", home.join("cache"))
        .output()
        .unwrap();
    assert!(said.status.success(), "{format}: {}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn a_run_that_is_not_there_is_named() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "lake-1", 1);
    let told = refusal(home.path(), &["data", "ls", "lake-2"]);
    assert!(told.contains("lake-1"), "{told}");
    let told = refusal(home.path(), &["replay", "lake-2", "--store", "runs/lake-1/trajectories"]);
    assert!(told.contains("it has: lake-1"), "{told}");
    let told = refusal(home.path(), &["data", "show", "lake-1", "expert.9"]);
    assert!(told.contains("no episode expert.9"), "{told}");
    let told = refusal(home.path(), &["replay", "lake-1", "--store", "no/store"]);
    assert!(told.contains("no/store"), "{told}");
}
