//! Writes a frozen episode file to stdout: `cargo run --release -p household --example freeze_episodes -- fetch near 200 > fetch-near.jsonl`.

use household::{freeze::freeze_task, sample::Tier, tasks::Task};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, tier, count) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [task, "near", count] => (Task::named(task), Tier::Near, count.parse()),
        [task, "all", count] => (Task::named(task), Tier::All, count.parse()),
        _ => {
            eprintln!("usage: freeze_episodes fetch|pick_up|object_nav|room_visit near|all COUNT");
            return ExitCode::FAILURE;
        }
    };
    let (Some(task), Ok(count)) = (task, count) else {
        eprintln!("the task must be fetch, pick_up, object_nav or room_visit, COUNT a whole number");
        return ExitCode::FAILURE;
    };
    match freeze_task(task, tier, count) {
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
