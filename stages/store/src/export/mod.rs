//! Trajectories in the forms that other tools read.
//!
//! In: [`Sample`]s, one a trajectory, in words and pictures. Out: a folder in one [`Format`], with a dataset card. Nothing of
//! the store is changed, and no form is read back by Errand except where `import` says so.

mod card;
mod lerobot;
mod picture;
mod sharegpt;
mod stats;
mod table;
mod talk;

#[cfg(test)]
mod tests;

use crate::Error;
use schemas::End;
use std::path::{Path, PathBuf};

pub use card::Card;

/// A trajectory that is to be written.
#[derive(Clone, Debug)]
pub struct Sample {
    /// With all pictures that its turns show.
    pub end: End,
    /// `train` or `val`, of the export.
    pub split: String,
    /// What the agent is told before its first turn; empty where there is nothing.
    pub system: String,
    /// The task in words.
    pub instruction: String,
    /// One for each primitive action, and one for what is seen after the last. Filled for [`Format::LeRobot`] alone.
    pub steps: Vec<Step>,
}

/// The world before a primitive action, and the action.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub pictures: Vec<Shot>,
    /// The place of the action in the world's list.
    pub action: u32,
    pub reward: f32,
    pub worked: bool,
    /// What the robot knows of itself, by name.
    pub state: Vec<(String, f32)>,
}

/// A picture with its pixels.
#[derive(Clone, Debug, Default)]
pub struct Shot {
    pub camera: String,
    pub width: u32,
    pub height: u32,
    pub rgb: Vec<u8>,
    pub png: Vec<u8>,
}

/// A form of dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// verl's Parquet of prompts: one row a task.
    Verl,
    /// Hugging Face `messages` with `images`, as TRL reads them.
    Messages,
    /// ShareGPT: JSON lines and picture files.
    ShareGpt,
    /// LeRobot v3.0: one row a primitive step.
    LeRobot,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Verl, Format::Messages, Format::ShareGpt, Format::LeRobot];

    pub fn as_str(self) -> &'static str {
        match self {
            Format::Verl => "verl",
            Format::Messages => "messages",
            Format::ShareGpt => "sharegpt",
            Format::LeRobot => "lerobot",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Format, String> {
        let known = || Format::ALL.map(Format::as_str).join(", ");
        Format::ALL.into_iter().find(|f| f.as_str() == text).ok_or_else(|| format!("`{text}` is no format; allowed: {}", known()))
    }
}

/// What a dataset has to know before its first sample.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub run: String,
    pub world: String,
    /// The world's actions, by the numbers that [`Step::action`] gives.
    pub actions: Vec<String>,
    /// Whether samples show pictures.
    pub pictures: bool,
}

/// One format's writer.
trait Write {
    fn add(&mut self, sample: &Sample) -> Result<(), Error>;
    /// Files with their rows, relative to the folder.
    fn finish(self: Box<Self>) -> Result<Vec<(String, u64)>, Error>;
}

/// A dataset that is being written.
pub struct Dataset {
    folder: PathBuf,
    format: Format,
    plan: Plan,
    writer: Box<dyn Write>,
    card: Card,
}

impl Dataset {
    /// Begins a dataset in a folder that is not there or is empty.
    ///
    /// # Errors
    /// [`Error::Export`] where something is in the folder, or it cannot be made.
    pub fn create(folder: &Path, format: Format, plan: Plan) -> Result<Dataset, Error> {
        free_folder(folder)?;
        let folder = folder.to_path_buf();
        let writer: Box<dyn Write> = match format {
            Format::Verl => Box::new(talk::Verl::new(&folder, &plan)?),
            Format::Messages => Box::new(talk::Messages::new(&folder, &plan)?),
            Format::ShareGpt => Box::new(sharegpt::ShareGpt::new(&folder)?),
            Format::LeRobot => Box::new(lerobot::LeRobot::new(&folder, &plan)?),
        };
        Ok(Dataset { folder, format, plan, writer, card: Card::default() })
    }

    /// Adds a trajectory.
    ///
    /// # Errors
    /// [`Error::Export`] where it cannot be written, or lacks what the format needs.
    pub fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        sample.end.frames.iter().try_for_each(picture::check)?;
        self.writer.add(sample)?;
        self.card.count(&sample.end, &sample.split);
        Ok(())
    }

    /// Writes what is left, and the card. `command`: what made it, for people.
    ///
    /// # Errors
    /// [`Error::Export`].
    pub fn finish(self, command: &str) -> Result<Card, Error> {
        let Dataset { folder, format, plan, writer, mut card } = self;
        card.files = writer.finish()?;
        write(&folder.join("README.md"), card.text(format.as_str(), &plan, command).as_bytes())?;
        Ok(card)
    }
}

/// Makes a folder that is not there, and refuses one that holds something.
///
/// # Errors
/// [`Error::Export`].
pub fn free_folder(folder: &Path) -> Result<(), Error> {
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(export(folder, "it is not empty; hint: name a folder that is not there yet"));
    }
    std::fs::create_dir_all(folder).map_err(|error| export(folder, error))
}

fn export(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Export { path: path.display().to_string(), reason: reason.to_string() }
}

/// Writes a file and the folders that lead to it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| export(parent, error))?;
    }
    std::fs::write(path, bytes).map_err(|error| export(path, error))
}
