//! Writes a frozen episode file to stdout: `cargo run --release -p household --example freeze_episodes -- near 200 > fetch-near.jsonl`.

use household::{freeze::freeze, sample::Tier};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (tier, count) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["near", count] => (Tier::Near, count.parse()),
        ["all", count] => (Tier::All, count.parse()),
        _ => {
            eprintln!("usage: freeze_episodes near|all COUNT");
            return ExitCode::FAILURE;
        }
    };
    let Ok(count) = count else {
        eprintln!("COUNT must be a whole number");
        return ExitCode::FAILURE;
    };
    match freeze(tier, count) {
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
