//! Subjects, streams, durables and buckets of a run, by name. A run's name is letters, digits and dashes.

use crate::{EpisodeId, Split};

pub fn episodes(run: &str, world: &str, split: Split) -> String {
    format!("errand.{run}.episodes.{world}.{split}")
}

pub fn observations(run: &str) -> String {
    format!("errand.{run}.observations")
}

pub fn prompts(run: &str, generator: &str) -> String {
    format!("errand.{run}.prompts.{generator}")
}

pub fn completions(run: &str, stepper: &str) -> String {
    format!("errand.{run}.completions.{stepper}")
}

pub fn ends(run: &str, id: EpisodeId) -> String {
    format!("errand.{run}.ends.{}.{}", id.split, id.number)
}

pub fn policies(run: &str) -> String {
    format!("errand.{run}.policies")
}

pub fn grants(run: &str) -> String {
    format!("errand.{run}.grants")
}

pub fn cancel(run: &str) -> String {
    format!("errand.{run}.cancel")
}

pub fn presence(run: &str, stage: &str, id: &str) -> String {
    format!("errand.{run}.presence.{stage}.{id}")
}

pub fn presence_all(run: &str) -> String {
    format!("errand.{run}.presence.>")
}

pub fn rejected(run: &str) -> String {
    format!("errand.{run}.rejected")
}

/// Stream names.
pub fn stream(run: &str, what: Stream) -> String {
    let what = match what {
        Stream::Episodes => "episodes",
        Stream::Ends => "ends",
        Stream::Policies => "policies",
        Stream::Grants => "grants",
        Stream::Cancel => "cancel",
        Stream::Rejected => "rejected",
    };
    format!("errand-{run}-{what}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    Episodes,
    Ends,
    Policies,
    Grants,
    Cancel,
    Rejected,
}

/// The durable from which steppers draw one world's episodes of one split.
pub fn episodes_durable(world: &str, split: Split) -> String {
    format!("stepper-{world}-{split}")
}

/// Durables on the ends.
pub const ENDS_LEARNER: &str = "learner";
pub const ENDS_RECORDER: &str = "recorder";
/// Headers only.
pub const ENDS_LOADER: &str = "scene-loader";

/// Headers on an `End`, so that the scene-loader need not read its body.
pub mod end_headers {
    pub const GROUP: &str = "Errand-Group";
    pub const BUCKET: &str = "Errand-Bucket";
    pub const SUCCESS: &str = "Errand-Success";
    pub const REASON: &str = "Errand-Reason";
    pub const ATTEMPT: &str = "Errand-Attempt";
    pub const VERSION: &str = "Errand-Version";
    pub const MODE: &str = "Errand-Mode";
}

/// The key-value bucket: the pipeline (`pipeline`), leases (`lease.<stage>`), stages' small states (`state.<stage>`).
pub fn bucket(run: &str) -> String {
    format!("errand-{run}")
}

/// The object bucket of what lives long: policies, tokenizer, compiled scenes.
pub fn artifacts(run: &str) -> String {
    format!("errand-{run}-artifacts")
}

/// The object bucket of payloads over the server's `max_payload`.
pub fn claims(run: &str) -> String {
    format!("errand-{run}-claims")
}
