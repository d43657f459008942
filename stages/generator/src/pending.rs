//! Requests that other machines answer: one thread waits for each.

use crate::engine::Generated;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Requests under way, and what came of those that are over.
pub(crate) struct Pending {
    finished: (Sender<Generated>, Receiver<Generated>),
    running: usize,
}

impl Pending {
    pub(crate) fn new() -> Pending {
        Pending { finished: channel(), running: 0 }
    }

    /// Has `work` done beside the caller.
    ///
    /// # Errors
    /// The operating system has no thread to give.
    pub(crate) fn start(&mut self, work: impl FnOnce() -> Generated + Send + 'static) -> Result<(), String> {
        let sender = self.finished.0.clone();
        let work = move || {
            // Nobody listens only when the stage is gone.
            drop(sender.send(work()));
        };
        std::thread::Builder::new().name("request".into()).stack_size(1 << 20).spawn(work).map_err(|e| e.to_string())?;
        self.running += 1;
        Ok(())
    }

    /// What is over by now; waits a little where nothing is.
    pub(crate) fn collect(&mut self) -> Vec<Generated> {
        let mut done: Vec<Generated> = self.finished.1.recv_timeout(Duration::from_millis(5)).into_iter().collect();
        done.extend(self.finished.1.try_iter());
        self.running -= done.len();
        done
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }
}
