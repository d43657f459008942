//! `errand data query`: the program that it needs, and what is asked of it.

use crate::{LAKE, printed, record, refusal};
use std::path::Path;
use std::process::Command;

/// `errand-query` beside `errand`; it is built by its own manifest, not with this test.
fn is_built() -> bool {
    let folder = Path::new(env!("CARGO_BIN_EXE_errand")).parent().unwrap();
    let built = folder.join("errand-query").is_file();
    if !built {
        println!("not run: errand-query is not built; hint: ops/test-data");
    }
    built
}

#[test]
fn without_its_program_it_says_how_to_build_it() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("a/b");
    std::fs::create_dir_all(&folder).unwrap();
    let alone = folder.join("errand");
    if std::fs::hard_link(env!("CARGO_BIN_EXE_errand"), &alone).is_err() {
        std::fs::copy(env!("CARGO_BIN_EXE_errand"), &alone).unwrap();
    }
    let output = Command::new(alone).args(["data", "query", "select 1"]).current_dir(home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    assert!(told.contains("errand: error: `errand-query` is not beside") && told.contains("--manifest-path stages/query"), "{told}");
}

#[test]
fn help_names_the_tables() {
    let home = tempfile::tempdir().unwrap();
    let help = printed(home.path(), &["data", "query", "--help"]);
    assert!(help.contains("trajectories, one row a trajectory: run, split, id,") && help.contains("turns, one row a turn:"), "{help}");
}

#[test]
fn it_counts_what_was_recorded_and_refuses_in_one_line() {
    if !is_built() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    assert!(refusal(home.path(), &["data", "query", "select 1"]).contains("has recorded anything"));
    record(home.path(), LAKE, "one", 5);
    record(home.path(), LAKE, "two", 3);
    let asked = |sql: &str, more: &[&str]| printed(home.path(), &[&["data", "query", sql, "--format", "csv"], more].concat());
    let by_run = "-- both\nselect run, split, count(*) as n from trajectories group by run, split order by run";
    assert_eq!(asked(by_run, &[]), "run,split,n\none,expert,5\ntwo,expert,3\n");
    assert_eq!(asked(by_run, &["--run", "two"]), "run,split,n\ntwo,expert,3\n");
    assert_eq!(asked(by_run, &["--store", "runs/one/trajectories"]), "run,split,n\none,expert,5\n");
    let agree = "select count(*) as n from trajectories where turns <> (select count(*) from turns
        where turns.run = trajectories.run and turns.id = trajectories.id)";
    assert_eq!(asked(agree, &[]), "n\n0\n");
    for (arguments, part) in [
        (vec!["select 1 from episodes"], "the tables are `trajectories` and `turns`"),
        (vec!["select nothing from turns"], "nothing"),
        (vec!["selct 1"], "selct"),
        (vec!["select 1", "--run", "on"], "the nearest name is `one`"),
        (vec!["select 1", "--store", "nowhere"], "no such folder"),
    ] {
        let told = refusal(home.path(), &[vec!["data", "query"], arguments].concat());
        assert!(told.contains(part), "{part} in {told}");
    }
}
