//! See ARCHITECTURE.md.
pub mod stage;
