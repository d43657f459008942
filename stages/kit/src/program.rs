//! The whole `main` of a stage: arguments, logs, the run's pipeline, the lease, the driver, and how it all ends.

use crate::connect::{Link, connect_with};
use crate::driver::{Control, Driver};
use crate::error::{Error, check_name};
use crate::lease::Lease;
use crate::lifeline::{Lifeline, Wiring};
use crate::metrics::Shared;
use crate::setup;
use crate::stage::{Identity, Stage};
use clap::{Arg, ArgMatches, Command, value_parser};
use schemas::pipeline::Pipeline;
use schemas::subjects;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long a stage waits for NATS before it knows its pipeline's `broker.wait_s`.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// Kinds of which a run has one at a time.
const UNDER_LEASE: [&str; 2] = ["scene-loader", "learner"];

/// Runs a stage with the arguments that all stages share. This is all that a stage's `main` does.
pub fn main<F>(stage: &'static str, make: F) -> ExitCode
where
    F: FnOnce(Identity) -> anyhow::Result<Box<dyn Stage>>,
{
    Program::new(stage).run(|identity, _| make(identity))
}

/// A stage's program, where [`main`] is not enough.
pub struct Program {
    stage: &'static str,
    lease: bool,
    command: Command,
}

impl Program {
    /// `scene-loader` and `learner` run under the lease of their kind, others do not.
    pub fn new(stage: &'static str) -> Program {
        let arg = |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
        let command = Command::new(stage)
            .version(env!("CARGO_PKG_VERSION"))
            .about(format!("Errand's {stage}: one stage of a run, on any host that reaches the run's NATS server"))
            .after_help(format!("Example:\n  {stage} --nats nats://10.0.0.5:4222 --run first"))
            .arg(arg("nats", "URL", "Where the NATS server is").env("NATS_URL").default_value("nats://127.0.0.1:4222"))
            .arg(arg("run", "NAME", "Which run; `errand init` has made it").required(true))
            .arg(arg("id", "ID", "This process's name, unique in the run [default: the stage and a random number]"))
            .arg(arg("folder", "PATH", "Where the run's files lie [default: runs/NAME]").value_parser(value_parser!(PathBuf)))
            .arg(arg("metrics-port", "PORT", "Serve Prometheus metrics there; 0 picks a free port").value_parser(value_parser!(u16)))
            .arg(arg("log", "FILTER", "What is logged, as in `debug` or `kit=trace,info`").default_value("info"));
        Program { stage, lease: UNDER_LEASE.contains(&stage), command }
    }

    /// An argument of the stage's own; `run` hands its value over.
    #[must_use]
    pub fn arg(mut self, arg: Arg) -> Program {
        self.command = self.command.arg(arg);
        self
    }

    /// Whether it runs under the lease of its kind.
    #[must_use]
    pub fn lease(mut self, lease: bool) -> Program {
        self.lease = lease;
        self
    }

    /// Runs until the stage ends or is told to: exit code 0 or 1, and one line on stderr for an error.
    pub fn run<F>(self, make: F) -> ExitCode
    where
        F: FnOnce(Identity, &ArgMatches) -> anyhow::Result<Box<dyn Stage>>,
    {
        let matches = match self.command.try_get_matches() {
            Ok(matches) => matches,
            Err(wrong) => {
                wrong.print().ok();
                return ExitCode::from(u8::from(wrong.use_stderr()));
            }
        };
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        if let Err(reason) = start_logs(&text("log").unwrap_or_default()) {
            eprintln!("{}: error: --log: {reason}; hint: `info` or `kit=debug,info`", self.stage);
            return ExitCode::from(1);
        }
        let run_name = text("run").unwrap_or_default();
        let options = Options {
            nats: text("nats").unwrap_or_default(),
            stage: self.stage,
            id: text("id").unwrap_or_else(|| random_id(self.stage)),
            folder: matches.get_one::<PathBuf>("folder").cloned().unwrap_or_else(|| PathBuf::from("runs").join(&run_name)),
            run: run_name,
            metrics_port: matches.get_one::<u16>("metrics-port").copied(),
            lease: self.lease,
            wait: FIRST_WAIT,
            own_process: true,
        };
        let (to, from) = unbounded_channel();
        let stage = self.stage;
        match run_controlled(options, to, from, |identity| make(identity, &matches)) {
            Ok(outcome) => {
                if outcome.code != 0 {
                    eprintln!("{stage}: error: {}", outcome.message);
                } else if !outcome.message.is_empty() {
                    tracing::info!("{}", outcome.message);
                }
                ExitCode::from(u8::try_from(outcome.code).unwrap_or(1))
            }
            Err(error) => {
                eprintln!("{stage}: error: {error}");
                ExitCode::from(1)
            }
        }
    }
}

/// `stage-` and eight random hex digits.
pub(crate) fn random_id(stage: &str) -> String {
    format!("{stage}-{:08x}", rand::random::<u32>())
}

/// Logs go to stderr: short lines for people, JSON lines for machines.
fn start_logs(filter: &str) -> Result<(), String> {
    // The client library reports every connection event, which the kit says better.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("async_nats=warn,{filter}")).map_err(|e| e.to_string())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is there already stays.
    if std::io::stderr().is_terminal() {
        builder.compact().with_target(false).try_init().ok()
    } else {
        builder.json().try_init().ok()
    };
    Ok(())
}

/// How a stage is run.
#[derive(Clone, Debug)]
pub struct Options {
    pub nats: String,
    pub run: String,
    pub stage: &'static str,
    pub id: String,
    pub folder: PathBuf,
    pub metrics_port: Option<u16>,
    /// Under the lease of its kind.
    pub lease: bool,
    /// How long it waits for NATS at the start.
    pub wait: Duration,
    /// Signals are caught, and a stage that hangs is ended with its process. Off where several stages share a process.
    pub own_process: bool,
}

impl Options {
    /// For stages that share a process, as in tests.
    pub fn new(nats: &str, run: &str, stage: &'static str) -> Options {
        Options {
            nats: nats.to_string(),
            run: run.to_string(),
            stage,
            id: random_id(stage),
            folder: PathBuf::from("runs").join(run),
            metrics_port: None,
            lease: UNDER_LEASE.contains(&stage),
            wait: FIRST_WAIT,
            own_process: false,
        }
    }
}

/// How a stage ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    /// The one line that people see.
    pub message: String,
}

/// Runs a stage on the calling thread until it ends.
///
/// # Errors
/// See [`Error`].
pub fn run(options: Options, make: impl FnOnce(Identity) -> anyhow::Result<Box<dyn Stage>>) -> Result<Outcome, Error> {
    let (to, from) = unbounded_channel();
    run_controlled(options, to, from, make)
}

pub(crate) fn run_controlled(
    options: Options,
    to: UnboundedSender<Control>,
    from: UnboundedReceiver<Control>,
    make: impl FnOnce(Identity) -> anyhow::Result<Box<dyn Stage>>,
) -> Result<Outcome, Error> {
    check_name(&options.run, "give another --run")?;
    check_name(&options.id, "give another --id")?;
    // One thread: a message's way from the socket through the logic and back crosses no thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Error::Stage(e.into()))?;
    let link = Arc::new(Link::default());
    let client = runtime.block_on(connect_with(&options.nats, options.wait, &options.id, link.clone(), true))?;
    let text = runtime.block_on(setup::pipeline_text(&client, &options.run)).map_err(|error| match error {
        // The URL as people wrote it.
        Error::NoRun { run, .. } => Error::NoRun { run, url: options.nats.clone() },
        other => other,
    })?;
    let pipeline = Pipeline::parse(&text).map_err(|e| Error::BadPipeline { run: options.run.clone(), reason: e.to_string() })?;
    let host = host_name();
    let lease = if options.lease { Some(runtime.block_on(acquire(&client, &options, &host, pipeline.broker.lease_s))?) } else { None };
    let identity = Identity {
        run: options.run.clone(),
        id: options.id.clone(),
        host,
        pid: std::process::id(),
        epoch: lease.as_ref().map_or(0, Lease::epoch),
        since_us: runtime.block_on(setup::since_us(&client, &options.run))?,
        folder: options.folder.clone(),
        pipeline,
    };
    let shared = Shared::default();
    let wiring = Wiring {
        url: options.nats.clone(),
        stage: options.stage,
        identity: identity.clone(),
        metrics_port: options.metrics_port,
        own_process: options.own_process,
        shared: shared.clone(),
        link: link.clone(),
        to: to.clone(),
    };
    let lifeline = Lifeline::start(wiring, lease)?;
    let drive = || {
        let stage = make(identity.clone()).map_err(Error::Stage)?;
        let needs = stage.needs();
        if needs.lease != options.lease {
            let reason = anyhow::anyhow!(
                "stage `{}` says lease = {}, its program says {}; hint: `Program::lease`",
                options.stage,
                needs.lease,
                options.lease
            );
            return Err(Error::Stage(reason));
        }
        let watch = needs.presence;
        runtime.block_on(tokio::task::unconstrained(async {
            let mut driver = Driver::start(client, identity, stage, needs, shared, link, to, from).await?;
            lifeline.ready(watch);
            driver.run().await
        }))
    };
    let result = drive();
    lifeline.end(matches!(&result, Ok(outcome) if outcome.code == KILLED));
    runtime.shutdown_background();
    result
}

/// The code of a stage that a test has killed.
pub(crate) const KILLED: i32 = 137;

async fn acquire(client: &async_nats::Client, options: &Options, host: &str, lease_s: f64) -> Result<Lease, Error> {
    let js = async_nats::jetstream::new(client.clone());
    let bucket = js.get_key_value(subjects::bucket(&options.run)).await.map_err(|e| Error::broker("opening the run's bucket", e))?;
    Lease::acquire(bucket, options.stage, &options.id, host, lease_s).await
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    name.map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).unwrap_or_else(|| "localhost".to_string())
}
