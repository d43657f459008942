//! What can go wrong between a stage and its broker, each as one line with a hint.

/// Ends a stage with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no NATS server answered at {url} for {waited_s:.0} s ({reason}); hint: start one with `nats-server -js`, or give --nats URL")]
    NoNats { url: String, waited_s: f64, reason: String },
    #[error("NATS at {url} was gone for {waited_s:.0} s (broker.wait_s); hint: start the stage again when the server is back")]
    NatsGone { url: String, waited_s: f64 },
    #[error("NATS at {url} refused the connection: {reason}; hint: check the URL and the credentials in it")]
    Refused { url: String, reason: String },
    #[error("run `{run}` is not on {url}; hint: `errand init PIPELINE --run {run}` makes it")]
    NoRun { run: String, url: String },
    #[error("the pipeline of run `{run}` cannot be read: {reason}; hint: `errand validate` shows what is allowed")]
    BadPipeline { run: String, reason: String },
    #[error("`{name}` is no name; allowed: 1 to 64 letters, digits and dashes; hint: {hint}")]
    BadName { name: String, hint: &'static str },
    #[error("the lease of `{stage}` is lost: {reason}; hint: another instance has taken over, or NATS is overloaded")]
    LeaseLost { stage: String, reason: String },
    #[error("{doing} failed: {reason}; hint: {hint}")]
    Broker { doing: String, reason: String, hint: &'static str },
    #[error("{0:#}")]
    Stage(anyhow::Error),
    #[error("metrics port {port} cannot be opened: {reason}; hint: give another --metrics-port, or 0 for any free one")]
    MetricsPort { port: u16, reason: String },
    #[error("work of `{stage}` on its own thread panicked; hint: the lines above say where")]
    WorkPanicked { stage: String },
}

impl Error {
    pub(crate) fn broker(doing: impl Into<String>, reason: impl std::fmt::Display) -> Error {
        Error::Broker { doing: doing.into(), reason: reason.to_string(), hint: "is the server up, with JetStream (`nats-server -js`)?" }
    }
}

/// Refuses what cannot be a token of a subject and of a stream's name.
///
/// # Errors
/// [`Error::BadName`].
pub fn check_name(name: &str, hint: &'static str) -> Result<(), Error> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits { Ok(()) } else { Err(Error::BadName { name: name.to_string(), hint }) }
}
