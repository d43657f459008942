//! `errand data ls`: what a store holds, in tables.

use crate::data::Which;
use crate::data::place::Place;
use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::path::Path;
use store::{Kind, Reader, Store, Summary};

/// Lists runs, or one in full.
///
/// # Errors
/// A store that cannot be read.
pub(crate) async fn ls(runs: &Path, run: Option<&str>, store: Option<&str>) -> Result<()> {
    if let Some(run) = run {
        let place = Place::open(runs, &Which { run: run.into(), store: store.map(str::to_string) }).await?;
        let rows: Vec<Summary> = place.reader.summaries().try_collect().await?;
        println!("{}", overview(&place.reader, &rows));
        for (heading, key) in KEYS {
            println!("{}", by(heading, &rows, key));
        }
        return Ok(());
    }
    let mut table = new_table(&["run", "episodes", "successes", "turns", "files", "MiB"]);
    for which in known(runs, store).await? {
        // A run that was removed by half is no reason to show none.
        let Ok(place) = Place::open(runs, &which).await else { continue };
        let rows: Vec<Summary> = place.reader.summaries().try_collect().await?;
        let files: Vec<_> = [Kind::Trajectories, Kind::Turns].into_iter().flat_map(|kind| place.reader.files(kind)).collect();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        table.add_row([
            which.run.clone(),
            rows.len().to_string(),
            rows.iter().filter(|row| row.success).count().to_string(),
            rows.iter().map(|row| u64::from(row.turns)).sum::<u64>().to_string(),
            files.len().to_string(),
            format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// The runs of a folder, or of a store.
///
/// # Errors
/// A store that cannot be listed.
pub(super) async fn known(runs: &Path, store: Option<&str>) -> Result<Vec<Which>> {
    if let Some(url) = store {
        let names = Store::open_existing(url, "")?.runs().await?;
        return Ok(names.into_iter().map(|run| Which { run, store: Some(url.into()) }).collect());
    }
    let entries = std::fs::read_dir(runs).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> =
        entries.into_iter().filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names.into_iter().map(|run| Which { run, store: None }).collect())
}

type Key = fn(&Summary) -> String;

/// What success is told by.
const KEYS: [(&str, Key); 5] = [
    ("split", |row| row.id.split.to_string()),
    ("task", |row| format!("{} {}", row.world, row.bucket)),
    ("length", |row| length(row.steps)),
    ("version", |row| row.versions.map_or_else(|| "none".into(), |(_, newest)| format!("{newest:>6}"))),
    ("reason", |row| row.reason.as_str().into()),
];

/// A length's class: powers of two.
fn length(steps: u32) -> String {
    let upper = steps.max(1).next_power_of_two();
    format!("{:>5} to {upper}", if upper == 1 { 0 } else { upper / 2 + 1 })
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header);
    table
}

fn overview(reader: &Reader, rows: &[Summary]) -> Table {
    let mut table = new_table(&["", ""]);
    let files: Vec<_> = [Kind::Trajectories, Kind::Turns].into_iter().flat_map(|kind| reader.files(kind)).collect();
    let levels: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.level.as_str()).collect();
    let sum = |of: fn(&Summary) -> u64| rows.iter().map(of).sum::<u64>().to_string();
    table.add_row(["store".to_string(), reader.store().url().to_string()]);
    table.add_row(["commits, files".to_string(), format!("{}, {}", reader.entries().len(), files.len())]);
    table.add_row(["MiB".to_string(), format!("{:.1}", files.iter().map(|file| file.bytes).sum::<u64>() as f64 / f64::from(1 << 20))]);
    table.add_row(["episodes".to_string(), rows.len().to_string()]);
    table.add_row(["levels".to_string(), levels.len().to_string()]);
    table.add_row(["turns".to_string(), sum(|row| u64::from(row.turns))]);
    table.add_row(["primitive steps".to_string(), sum(|row| u64::from(row.steps))]);
    table.add_row(["tokens that can be trained".to_string(), sum(Summary::trained_tokens)]);
    table
}

fn by(heading: &str, rows: &[Summary], key: Key) -> Table {
    let mut groups: BTreeMap<String, Vec<&Summary>> = BTreeMap::new();
    for row in rows {
        groups.entry(key(row)).or_default().push(row);
    }
    let mut table = new_table(&[heading, "episodes", "success", "mean return", "mean steps", "mean turns"]);
    for (name, group) in groups {
        let count = group.len() as f64;
        let mean = |of: fn(&Summary) -> f64| format!("{:.2}", group.iter().map(|row| of(row)).sum::<f64>() / count);
        let share = 100.0 * group.iter().filter(|row| row.success).count() as f64 / count;
        table.add_row([
            name,
            group.len().to_string(),
            format!("{share:.1} %"),
            mean(|row| f64::from(row.total_reward)),
            mean(|row| f64::from(row.steps)),
            mean(|row| f64::from(row.turns)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_classes() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 9, 16].map(length).map(|l| l.trim().to_string()),
            ["0 to 1", "0 to 1", "2 to 2", "3 to 4", "3 to 4", "5 to 8", "9 to 16", "9 to 16"]
        );
    }
}
