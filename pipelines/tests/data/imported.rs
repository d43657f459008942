//! Tasks of other tools.

use crate::{LAKE, printed, record, refusal};

#[test]
fn a_dataset_for_verl_comes_back_as_the_tasks_it_was_made_of() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), LAKE, "r", 20);
    printed(home.path(), &["export", "r", "--to", "verl", "--out", "prompts", "--val", "0", "--keep-copies"]);
    let told = printed(home.path(), &["import", "prompts/data/train.parquet", "--pipeline", "r.toml", "--run", "again"]);
    assert!(told.contains("20 of 20 rows imported as run `again`; the expert solved 20"), "{told}");
    assert!(printed(home.path(), &["replay", "again"]).contains(": 0 differ"));
    let other =
        LAKE.replace("name = \"frozenlake\"", "name = \"sokoban\"").replace("settings = { size = 4, frozen_probability = 0.8 }\n", "");
    std::fs::write(home.path().join("other.toml"), other).unwrap();
    let told = refusal(home.path(), &["import", "prompts/data/train.parquet", "--pipeline", "other.toml", "--run", "no"]);
    assert!(told.contains("names no task of `sokoban`; it names: frozenlake"), "{told}");
}

#[test]
fn what_is_no_list_of_tasks_is_refused_and_nothing_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("p.toml"), LAKE).unwrap();
    std::fs::write(home.path().join("no.parquet"), b"PAR1 and then nothing").unwrap();
    for file in ["no.parquet", "gone.parquet"] {
        let told = refusal(home.path(), &["import", file, "--pipeline", "p.toml", "--run", "no"]);
        assert!(told.contains(file), "{told}");
    }
    assert!(!home.path().join("runs/no").exists());
}
