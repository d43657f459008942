//! A connection that waits for its server, says so, and knows for how long the server has been gone.

use crate::Error;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Connects once, waiting up to `wait` for the server.
///
/// # Errors
/// [`Error::NoNats`] when nobody answered in that time, [`Error::Refused`] when waiting would not help.
pub async fn connect(url: &str, wait: Duration) -> Result<Client, Error> {
    connect_with(url, wait, "errand", Arc::new(Link::default()), false).await
}

/// Whether the connection is up, and how often it came back. Shared between threads.
#[derive(Debug)]
pub(crate) struct Link {
    zero: Instant,
    /// Milliseconds since `zero` at which the connection was lost, plus one; 0 while it is up.
    lost_at: AtomicU64,
    /// How often the connection was made.
    generation: AtomicU64,
    /// Messages that were dropped because they came faster than they were taken.
    dropped: AtomicU64,
}

impl Default for Link {
    fn default() -> Self {
        Link { zero: Instant::now(), lost_at: AtomicU64::new(0), generation: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }
}

impl Link {
    pub(crate) fn down_for(&self) -> Option<Duration> {
        let lost_at = self.lost_at.load(Relaxed).checked_sub(1)?;
        Some(self.zero.elapsed().saturating_sub(Duration::from_millis(lost_at)))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lost_at.load(Relaxed) == 0
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn lost(&self) -> bool {
        let now = self.zero.elapsed().as_millis() as u64 + 1;
        self.lost_at.compare_exchange(0, now, Relaxed, Relaxed).is_ok()
    }

    fn back(&self) -> Option<Duration> {
        let down = self.down_for();
        self.lost_at.store(0, Relaxed);
        self.generation.fetch_add(1, Relaxed);
        down
    }
}

/// Connects, keeps `link` up to date, and with `say` tells people when the server goes and comes.
pub(crate) async fn connect_with(url: &str, wait: Duration, name: &str, link: Arc<Link>, say: bool) -> Result<Client, Error> {
    let started = Instant::now();
    let mut said = false;
    loop {
        let reason = match options(url, name, &link, say).connect(url).await {
            Ok(client) => return Ok(client),
            Err(error) => match error.kind() {
                ConnectErrorKind::ServerParse
                | ConnectErrorKind::AuthorizationViolation
                | ConnectErrorKind::Authentication
                | ConnectErrorKind::Tls => {
                    return Err(Error::Refused { url: url.to_string(), reason: error.to_string() });
                }
                _ => error.to_string(),
            },
        };
        let waited = started.elapsed();
        if waited >= wait {
            return Err(Error::NoNats { url: url.to_string(), waited_s: waited.as_secs_f64(), reason });
        }
        if !said {
            said = true;
            tracing::warn!(url, "waiting up to {:.0} s for NATS ({reason})", wait.as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(200).min(wait - waited)).await;
    }
}

fn options(url: &str, name: &str, link: &Arc<Link>, say: bool) -> ConnectOptions {
    let (link, url) = (link.clone(), url.to_string());
    ConnectOptions::new()
        .name(name)
        // Subjects are made by `schemas::subjects` from checked names.
        .skip_subject_validation(true)
        // What is sent while the server is gone waits here, so that the logic is not held up.
        .client_capacity(1 << 16)
        .subscription_capacity(1 << 16)
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempts| Duration::from_millis((attempts as u64 * 50).min(500)))
        .event_callback(move |event| {
            let (link, url) = (link.clone(), url.clone());
            async move { on_event(&event, &link, &url, say) }
        })
}

fn on_event(event: &Event, link: &Link, url: &str, say: bool) {
    match event {
        Event::Disconnected if link.lost() && say => tracing::warn!(url, "lost NATS; waiting for it to come back"),
        Event::Connected => {
            if let (Some(down), true) = (link.back(), say) {
                tracing::info!(url, "NATS is back after {:.1} s", down.as_secs_f64());
            }
        }
        Event::SlowConsumer(_) if link.dropped.fetch_add(1, Relaxed) == 0 => {
            tracing::warn!("messages come faster than they are taken, and some are dropped; what matters is asked for again");
        }
        Event::ServerError(error) => tracing::warn!("NATS says: {error}"),
        _ => {}
    }
}
