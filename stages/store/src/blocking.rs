//! The store for code that is not async: stages commit and read on a thread of their own.

use std::future::Future;
use tokio::runtime::{Builder, Runtime};

/// A runtime that may be dropped anywhere: a plain one panics where another runtime is at work, as it is in a stage that stops.
#[derive(Debug)]
pub struct Blocking(Option<Runtime>);

impl Blocking {
    /// A runtime on the calling thread.
    ///
    /// # Errors
    /// One line: the system gives none.
    pub fn new() -> Result<Blocking, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Blocking(Some(runtime))).map_err(|e| format!("no runtime for the store: {e}"))
    }

    /// Waits for a future. Not from within another runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.as_ref().expect("it is there until it is dropped").block_on(future)
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_may_be_dropped_inside_another_runtime() {
        let blocking = Blocking::new().unwrap();
        assert_eq!(blocking.block_on(async { 7 }), 7);
        Runtime::new().unwrap().block_on(async { drop(blocking) });
    }
}
