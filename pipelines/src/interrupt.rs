//! Ctrl-C and a termination, heard from the moment this is made: what comes between two waits is not lost.
//!
//! `tokio::signal::ctrl_c()` hears only what comes while its own future is waited for, so a loop that makes one a turn misses
//! what comes while it does something else.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A person's or a supervisor's wish to stop.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From here on neither signal ends the process by itself.
    ///
    /// # Errors
    /// The system lets no signal be caught.
    pub(crate) fn caught() -> Result<Interrupt> {
        let of = |kind: SignalKind| signal(kind).context("signals cannot be caught");
        Ok(Interrupt { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    /// Returns once either has come since this was made or last returned.
    pub(crate) async fn asked(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_signal_that_comes_while_nobody_waits_is_heard_later() -> Result<()> {
        let mut interrupt = Interrupt::caught()?;
        let own = std::process::id().to_string();
        std::process::Command::new("kill").args(["-INT", &own]).status()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        tokio::time::timeout(Duration::from_secs(10), interrupt.asked()).await.context("the signal was lost")?;
        let again = tokio::time::timeout(Duration::from_millis(50), interrupt.asked()).await;
        assert!(again.is_err(), "one signal is heard once");
        Ok(())
    }
}
