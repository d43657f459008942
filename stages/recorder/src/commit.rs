//! The recorder's work off the loop: opening the sink, and one commit.

use crate::{Item, Receipt, Sink};
use kit::stage::Work;
use std::any::Any;
use store::Committed;

/// What is to be done.
pub(crate) enum Commit {
    Open(Box<dyn Sink>),
    Write { sink: Box<dyn Sink>, batch: Vec<Item>, now_us: u64 },
}

/// What came of it.
pub(crate) enum Done {
    Opened {
        sink: Box<dyn Sink>,
        committed: Committed,
    },
    Written {
        sink: Box<dyn Sink>,
        batch: Vec<Item>,
        receipt: Receipt,
    },
    /// One line for people.
    Failed(String),
}

impl Work for Commit {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        let done = match *self {
            Commit::Open(mut sink) => match sink.open() {
                Ok(committed) => Done::Opened { sink, committed },
                Err(message) => Done::Failed(message),
            },
            Commit::Write { mut sink, batch, now_us } => match sink.commit(&batch, now_us) {
                Ok(receipt) => Done::Written { sink, batch, receipt },
                Err(message) => Done::Failed(message),
            },
        };
        Box::new(done)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Work for Done {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
