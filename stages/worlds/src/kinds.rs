//! In: a world's name and settings. Out: the [`Kind`], or one line that says what is wrong with them.

use crate::{Kind, delay::Delay, fetch::Fetch, frozenlake::Lake, sokoban::Sokoban};
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Every name that [`kind`] takes.
pub const NAMES: &[&str] = &["frozenlake", "sokoban", "fetch", "delay"];

/// A house as it was read, not yet parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HouseFile {
    /// For people: `train.jsonl.gz:17`.
    pub origin: String,
    /// One ProcTHOR house, JSON.
    pub json: Vec<u8>,
}

/// The houses that worlds inside houses are played in. Empty for the other worlds, and for steppers, which get compiled scenes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Houses {
    /// Houses to train in. Empty: the generator's.
    pub train: Vec<HouseFile>,
    /// How many distinct training houses the generator makes where `train` is empty.
    pub generated: u64,
    /// Houses that no training task is played in. Empty: the generator's.
    pub held_out: Vec<HouseFile>,
    /// A frozen list of held-out tasks, one JSON object each. Empty: they are sampled.
    pub validation: Vec<String>,
}

/// Makes a kind of world.
///
/// # Errors
/// A line that names the setting and what is allowed.
pub fn kind(name: &str, pictures: bool, settings: &toml::Table, houses: Houses) -> Result<Arc<dyn Kind>, String> {
    match name {
        "frozenlake" => Ok(Arc::new(Lake::new(pictures, settings)?)),
        "sokoban" => Ok(Arc::new(Sokoban::new(pictures, settings)?)),
        "fetch" => Ok(Arc::new(Fetch::new(pictures, settings, houses)?)),
        "delay" => Ok(Arc::new(Delay::new(pictures, settings)?)),
        other => Err(format!("world.name is `{other}`: allowed are {}", listed(NAMES))),
    }
}

/// Reads a world's settings into its struct; unknown keys are refused there.
pub(crate) fn settings<T: DeserializeOwned>(world: &str, table: &toml::Table) -> Result<T, String> {
    toml::Value::Table(table.clone()).try_into().map_err(|error: toml::de::Error| {
        let text = error.to_string();
        format!("world.settings of `{world}`: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// Refuses a number out of its range.
pub(crate) fn within<T: PartialOrd + std::fmt::Display>(key: &str, value: T, low: T, high: T) -> Result<(), String> {
    if value >= low && value <= high {
        return Ok(());
    }
    Err(format!("world.settings.{key} is {value}: allowed is {low} to {high}"))
}

/// Names in backticks, with commas.
pub(crate) fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
