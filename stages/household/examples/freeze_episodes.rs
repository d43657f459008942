//! Writes a frozen episode file to stdout: `cargo run --release -p household --example freeze_episodes -- fetch near 200 > fetch-near.jsonl`.

use household::{
    freeze::{Variant, freeze_variant},
    tasks::Task,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, tier, count] = &arguments[..] else {
        eprintln!("usage: freeze_episodes fetch|pick_up|object_nav|room_visit near|all|described|bring|paraphrased COUNT");
        return ExitCode::FAILURE;
    };
    let (Some(task), Some((tier, variant)), Ok(count)) = (Task::named(task), Variant::named(tier), count.parse()) else {
        eprintln!(
            "the task must be fetch, pick_up, object_nav or room_visit, the tier near, all, described, bring or paraphrased, COUNT a whole number"
        );
        return ExitCode::FAILURE;
    };
    match freeze_variant(task, tier, variant, count) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
