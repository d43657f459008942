//! What a policy reads and writes: prompt formats, token ids, chat templates, image grids and segments.
//!
//! In: texts, pictures, sampled token ids. Out: replies in a format, actions read from replies, and [`schemas::Segment`]s.
//! Pure: no NATS, clock, files or libtorch.

pub mod format;
pub mod image;
pub mod segment;
pub mod small;
pub mod template;
pub mod tokenizer;

mod error;
mod memory;
mod messages;
mod tags;

#[cfg(test)]
mod testing;

pub use error::Error;
pub use format::{ActionSpec, Parsed, ReplyParts};
pub use image::ImageSettings;
pub use messages::{Part, Role, Said};
pub use segment::{CarryBounds, Context, Reply, carry, carry_from};
pub use small::train_small;
pub use template::Template;
pub use tokenizer::Tokenizer;
