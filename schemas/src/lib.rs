//! Every message of Errand, defined once.
//!
//! One file a message: the struct with its units, its subject, its version, its size bound and an example. [`encode`] and
//! [`decode`] are the only places where MessagePack is written or read, so the codec stays a detail of this crate. The
//! order of the modules is the order in which a message travels through the pipeline.

pub mod ids;
pub mod wire;

pub mod pipeline;

pub mod cancel;
pub mod completion;
pub mod end;
pub mod episode;
pub mod grant;
pub mod observation;
pub mod policy_published;
pub mod presence;
pub mod prompt;
pub mod rejected;
pub mod segment;
pub mod subjects;
pub mod uses;

pub use cancel::Cancel;
pub use completion::{Completion, Status};
pub use end::{End, EndReason, Turn, Use};
pub use episode::{Episode, Mode, PolicyPin, SceneRef};
pub use grant::{Grant, Start};
pub use ids::{Address, EpisodeId, Split, digest_of, seed_of};
pub use observation::{Frame, Observation, SegmentHead};
pub use policy_published::PolicyPublished;
pub use presence::Presence;
pub use prompt::{Prompt, Sampling};
pub use rejected::Rejected;
pub use segment::{F32s, ImageSpan, Label, Segment, Source, TurnSpan, U32s};
pub use uses::{Uses, UsesError, UsesFile};
pub use wire::{Message, WireError, decode, encode};

#[cfg(test)]
mod tests;
