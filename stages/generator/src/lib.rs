//! The generator: samples replies.
//!
//! In: [`schemas::Prompt`]s on its own subject, [`schemas::PolicyPublished`]. Does: holds the newest versions of the weights,
//! decodes many replies at once, samples each turn once. Out: [`schemas::Completion`]s to the stepper that holds the world:
//! `accepted` at once, `running` each second, then the segment with the reply added. On failure: what cannot be answered
//! now is `busy` or `version`, what can never be is `failed`; weights that do not fit are refused and the older ones serve on.

pub mod chat;
pub mod engine;
pub mod http;
pub mod http_client;
pub mod memory;
mod pending;
mod pictures;
pub mod scripted;
mod serve;
mod stop;
pub mod versions;
pub mod vllm;

#[cfg(test)]
mod tests;

pub use chat::Chat;
pub use engine::{Engine, Generated, Load, Picture, Request};
pub use scripted::Scripted;
pub use serve::{Files, Generator, Make};
pub use vllm::Vllm;
