//! The robot's world: sensors read off a record, SPOC's format out and in, episodes of CHORES.

use crate::{LAKE, all, errand, printed, record, refusal};
use serde_json::{Value, json};

/// Errands in generated houses. `world`: more of its section.
fn fetch(world: &str) -> String {
    format!(
        r#"
name = "fetch"
[world]
name = "fetch"
{world}
[episodes]
generated_houses = 64
[prompt]
actions_per_turn = 5
observation_tokens = 200
segment_tokens = 2048
[limits]
steps = 120
turns = 40
reply_tokens = 24
episode_tokens = 32000
[policy]
vocabulary = 1024
[[schedule]]
phase = "imitation"
batches = 1
batch = 4
"#
    )
}

const PICTURES: &str = "pictures = true\nsettings = { width = 96, height = 56 }";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sensors_are_read_off_the_record_a_row_more_than_actions() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), &fetch(""), "r", 3);
    let ends = all(home.path(), "r").await;
    let rows = lines(&printed(home.path(), &["data", "sensors", "r"]));
    assert_eq!(rows.len(), ends.iter().map(|end| end.steps as usize + 1).sum::<usize>());
    let end = &ends[1];
    let rows = lines(&printed(home.path(), &["data", "sensors", "r", "expert.1", "--expert"]));
    let executed: Vec<&str> = end.turns.iter().flat_map(|turn| &turn.executed).map(String::as_str).collect();
    let told: Vec<&str> = rows[1..].iter().map(|row| row["last_action"].as_str().unwrap()).collect();
    assert_eq!(told, executed);
    assert!(rows[0]["last_action"].is_null() && rows[0]["turn"].is_null() && rows[0]["held"] == json!([]));
    let last = rows.last().unwrap();
    assert_eq!(last["would_succeed"], end.success);
    let distance = |row: &Value| row["target_distance"].as_f64().unwrap();
    assert!(distance(last) < distance(&rows[0]), "the expert went to its target");
    for row in &rows {
        assert_eq!(row["agent"].as_array().unwrap().len(), 6);
        assert_eq!(row["last_action_is_random"], false);
        assert_eq!(row["boxes"][0].as_array().unwrap().len(), row["targets"].as_array().unwrap().len());
    }
    assert!(rows.iter().any(|row| row["expert"].is_string()));
    assert!(refusal(home.path(), &["data", "sensors", "r", "expert.9"]).contains("no episode expert.9"));
    record(home.path(), LAKE, "lake", 1);
    assert!(refusal(home.path(), &["data", "sensors", "lake"]).contains("only worlds with a body"));
}

/// Whether the program that alone links HDF5 and H.264 was built.
fn without_spoc() -> bool {
    let missing = !std::path::Path::new(env!("CARGO_BIN_EXE_errand")).with_file_name("errand-spoc").is_file();
    if missing {
        println!(
            "not run: `errand-spoc` is not built; hint: cargo build --release --manifest-path stages/spoc/Cargo.toml --target-dir target"
        );
    }
    missing
}

#[test]
fn spocs_format_goes_out_and_comes_back_as_the_same_episodes() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), &fetch(PICTURES), "r", 4);
    if without_spoc() {
        let told = refusal(home.path(), &["export", "r", "--to", "spoc", "--out", "spoc"]);
        assert!(told.contains("`errand-spoc` is not beside `errand`; hint: cargo build"), "{told}");
        return;
    }
    printed(home.path(), &["export", "r", "--format", "spoc", "--out", "spoc", "--val", "0", "--keep-copies"]);
    let card = std::fs::read_to_string(home.path().join("spoc/README.md")).unwrap();
    assert!(card.contains("hdf5_sensors.hdf5") && card.contains("| train | 4 |"), "{card}");
    let told = printed(home.path(), &["import", "spoc", "--pipeline", "r.toml", "--run", "back"]);
    assert!(told.contains("4 of 4 rows imported") && told.contains("4 took as many steps and ended as they had"), "{told}");
    assert!(printed(home.path(), &["replay", "back"]).contains(": 0 differ"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = |run: &str| {
        let ends = runtime.block_on(all(home.path(), run));
        let mut done: Vec<(u64, Vec<String>)> =
            ends.iter().map(|end| (end.episode.seed, end.turns.iter().flat_map(|turn| turn.executed.clone()).collect())).collect();
        done.sort();
        done
    };
    assert_eq!(done("r"), done("back"));

    record(home.path(), &fetch(""), "text", 1);
    let told = refusal(home.path(), &["export", "text", "--to", "spoc", "--out", "none"]);
    assert!(told.contains("not the two cameras of SPOC") && told.contains("world.pictures = true"), "{told}");
    std::fs::create_dir(home.path().join("empty")).unwrap();
    let told = refusal(home.path(), &["import", "empty", "--pipeline", "r.toml", "--run", "no"]);
    assert!(told.contains("name the folder above the tasks"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn episodes_of_chores_are_done_by_the_expert_and_those_of_other_houses_are_named() {
    let home = tempfile::tempdir().unwrap();
    record(home.path(), &fetch(""), "r", 4);
    let mut text = String::new();
    for end in all(home.path(), "r").await {
        let task: Value = serde_json::from_slice(&end.episode.task).unwrap();
        let (house, of) = (task["house"].as_str().unwrap(), &task["fetch"]);
        let number: u64 = house.rsplit(':').next().unwrap().parse().unwrap();
        let Some(index) = number.checked_sub(1) else { continue };
        let sense = household::instruct::synset(of["target"].as_str().unwrap());
        let row = json!({
            "task_type": "FetchType", "house_index": index, "agent_starting_position": [of["start"][0], 0.9, of["start"][1]],
            "agent_y_rotation": of["yaw"], "expert_length_bucket": "short", "expert_length": 20, "synsets": [sense],
            "synset_to_object_ids": { &sense: of["ids"] }, "broad_synset_to_object_ids": { &sense: of["ids"] },
            "extras": {}, "natural_language_spec": of["instruction"],
        });
        text += &format!("{row}\n");
    }
    let known = text.lines().count();
    text += &text.lines().next().unwrap().replace("\"house_index\":", "\"house_index\":999");
    text += "\n{\"task_type\":\"Cook\"}\n";
    std::fs::write(home.path().join("episodes.jsonl"), &text).unwrap();
    let arguments = ["import", "episodes.jsonl", "--pipeline", "r.toml", "--run", "chores", "--house-file", "train"];
    let label = household::generator::HouseSplit::Train.label();
    let told = printed(home.path(), &[&arguments[..7], &[label]].concat());
    assert!(told.contains(&format!("{known} of {} rows imported", known + 2)) && told.contains("2 were left out"), "{told}");
    assert!(printed(home.path(), &["replay", "chores"]).contains(": 0 differ"));
    let told = refusal(home.path(), &[&arguments[..5], &["none", "--house-file", "other.jsonl"]].concat());
    assert!(told.contains("no task can be done") && told.contains("other.jsonl:"), "{told}");
    assert!(!errand(home.path(), &["data", "ls", "none"]).status.success(), "nothing was made");
}
