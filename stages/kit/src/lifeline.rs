//! What must go on while a step takes long: the lease, presence, the micro-service, metrics, signals and deadlines.
//!
//! A thread of its own with a connection of its own. Its word to the driver is a [`Control`].

use crate::connect::{Link, connect_with};
use crate::driver::Control;
use crate::error::Error;
use crate::lease::Lease;
use crate::metrics::{Gatherer, Shared, Snapshot, snapshot};
use crate::stage::{Identity, Input};
use crate::sweep::sweep;
use async_nats::Client;
use async_nats::jetstream;
use async_nats::service::ServiceExt;
use futures::StreamExt;
use schemas::{Presence, decode, encode, subjects};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// A stage that was silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(3);
/// The name of the gauge in the last presence of a stage that ends in order.
pub(crate) const FAREWELL: &str = "farewell";
/// After the first signal the stage has this long to hand back what it holds.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// What the lifeline is told by the thread that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The stage is being made: the lease is renewed, nobody is told of it yet.
    Making,
    /// It listens. `watch`: it wants to hear of others.
    Ready { watch: bool },
    /// It ended in order: farewell, and the lease is given back.
    Over,
    /// As if it had been killed.
    Killed,
}

/// Everything that the lifeline needs to know.
pub(crate) struct Wiring {
    pub(crate) url: String,
    pub(crate) stage: &'static str,
    pub(crate) identity: Identity,
    pub(crate) metrics_port: Option<u16>,
    /// Ends the process when the driver does not. Off where several stages share a process.
    pub(crate) own_process: bool,
    pub(crate) shared: Shared,
    /// The driver's connection.
    pub(crate) link: Arc<Link>,
    pub(crate) to: UnboundedSender<Control>,
}

/// The running thread.
pub(crate) struct Lifeline {
    phase: watch::Sender<Phase>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lifeline {
    /// Starts the thread.
    ///
    /// # Errors
    /// The metrics port is taken; the thread cannot be made.
    pub(crate) fn start(wiring: Wiring, lease: Option<Lease>) -> Result<Lifeline, Error> {
        let listener = wiring.metrics_port.map(open_port).transpose()?;
        let (phase, told) = watch::channel(Phase::Making);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| Error::Stage(e.into()))?;
        let body = move || runtime.block_on(live(Arc::new(wiring), lease, listener, told));
        let thread = std::thread::Builder::new().name("lifeline".into()).spawn(body).map_err(|e| Error::Stage(e.into()))?;
        Ok(Lifeline { phase, thread: Some(thread) })
    }

    /// The stage listens now; its presence may be told.
    pub(crate) fn ready(&self, watch: bool) {
        self.phase.send_replace(Phase::Ready { watch });
    }

    /// Says farewell and gives the lease back, or with `killed` neither.
    pub(crate) fn end(mut self, killed: bool) {
        self.phase.send_replace(if killed { Phase::Killed } else { Phase::Over });
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already and must not hide how the stage itself ended.
            thread.join().ok();
        }
    }
}

fn open_port(port: u16) -> Result<std::net::TcpListener, Error> {
    let open = || {
        let listener = std::net::TcpListener::bind(("0.0.0.0", port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = open().map_err(|e: std::io::Error| Error::MetricsPort { port, reason: e.to_string() })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("metrics on http://{address}/metrics");
    }
    Ok(listener)
}

async fn live(wiring: Arc<Wiring>, lease: Option<Lease>, listener: Option<std::net::TcpListener>, told: watch::Receiver<Phase>) {
    let wait = Duration::from_secs_f64(wiring.identity.pipeline.broker.wait_s);
    if let Some(listener) = listener {
        tokio::spawn(serve_metrics(listener, wiring.clone()));
    }
    if wiring.own_process {
        tokio::spawn(signals(wiring.clone()));
    }
    let link = Arc::new(Link::default());
    let name = format!("{}-lifeline", wiring.identity.id);
    let client = match connect_with(&wiring.url, wait, &name, link.clone(), false).await {
        Ok(client) => client,
        // The driver had a connection a moment ago.
        Err(Error::NoNats { url, waited_s, .. }) => return fatal(&wiring, Error::NatsGone { url, waited_s }).await,
        Err(error) => return fatal(&wiring, error).await,
    };
    let service = serve_micro(&client, &wiring).await;
    if let Err(error) = &service {
        tracing::debug!("no micro-service: {error}");
    }
    let watcher = tokio::spawn(watch_presence(client.clone(), wiring.clone(), link.clone(), told.clone()));
    let lost = tokio::spawn(watch_link(wiring.clone(), wait));
    let sweeper = lease.is_some().then(|| tokio::spawn(sweep(client.clone(), wiring.identity.run.clone())));
    let renewals = tokio::spawn(renew(client.clone(), wiring.clone(), link, lease, told.clone()));
    announce(&client, &wiring, told).await;
    watcher.abort();
    lost.abort();
    if let Some(sweeper) = sweeper {
        sweeper.abort();
    }
    // It gives the lease back, or drops it if the stage was killed.
    renewals.await.ok();
    tokio::time::timeout(Duration::from_secs(1), client.flush()).await.ok();
}

/// Tells the driver to stop; if it is stuck in a step, ends the process.
async fn fatal(wiring: &Wiring, error: Error) {
    let line = format!("{}: error: {error}", wiring.stage);
    wiring.to.send(Control::Fatal(error)).ok();
    if wiring.own_process {
        tokio::time::sleep(Duration::from_secs(2)).await;
        end_process(&line, 1);
    }
}

/// The way out when the driver cannot take it.
fn end_process(line: &str, code: i32) {
    eprintln!("{line}");
    std::process::exit(code);
}

/// First signal: finish. Second: at once.
async fn signals(wiring: Arc<Wiring>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::warn!("signals cannot be caught; a stop will look like a crash");
        return;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("stopping: handing back what is not done, up to {} s", DRAIN.as_secs());
    wiring.to.send(Control::Drain).ok();
    tokio::select! {
        _ = term.recv() => end_process(&format!("{}: stopped at once", wiring.stage), 1),
        _ = int.recv() => end_process(&format!("{}: stopped at once", wiring.stage), 1),
        // The driver keeps the deadline itself, unless a step holds it up.
        () = tokio::time::sleep(DRAIN + Duration::from_secs(3)) => end_process(&format!("{}: stopped, with work left that others take up", wiring.stage), 0),
    }
}

/// Ends the stage when the driver's connection has been down for too long.
async fn watch_link(wiring: Arc<Wiring>, wait: Duration) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(down) = wiring.link.down_for().filter(|down| *down >= wait) {
            let error = Error::NatsGone { url: wiring.url.clone(), waited_s: down.as_secs_f64() };
            return fatal(&wiring, error).await;
        }
    }
}

/// Renews the lease until the stage ends. While the server is gone nobody can take the lease, and the holder can send
/// nothing; when it is back, the swap says whether the lease is still held.
async fn renew(client: Client, wiring: Arc<Wiring>, link: Arc<Link>, lease: Option<Lease>, mut told: watch::Receiver<Phase>) {
    let Some(mut lease) = lease else { return };
    let js = jetstream::new(client);
    let bucket = loop {
        match js.get_key_value(subjects::bucket(&wiring.identity.run)).await {
            Ok(bucket) => break bucket,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    lease.rebind(bucket);
    let mut renewed = Instant::now();
    loop {
        let asked = Instant::now();
        match lease.renew().await {
            Ok(true) => renewed = asked,
            Ok(false) if !link.is_up() => renewed = Instant::now(),
            Ok(false) if renewed.elapsed() > lease.lasts() => {
                let reason = format!("it could not be renewed for {:.1} s", renewed.elapsed().as_secs_f64());
                return fatal(&wiring, lease.lost(reason)).await;
            }
            Ok(false) => {}
            Err(error) => return fatal(&wiring, error).await,
        }
        let over = told.wait_for(|phase| matches!(phase, Phase::Over | Phase::Killed));
        match tokio::time::timeout(lease.interval(), over).await.map(|phase| phase.map(|p| *p)) {
            Ok(Ok(Phase::Over)) => return lease.release().await,
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

/// Says each second how the stage is doing, until it ends.
async fn announce(client: &Client, wiring: &Wiring, mut told: watch::Receiver<Phase>) {
    let subject = subjects::presence(&wiring.identity.run, wiring.stage, &wiring.identity.id);
    let started_us = unix_us();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    if told.wait_for(|phase| *phase != Phase::Making).await.is_err() {
        return;
    }
    loop {
        let phase = *told.borrow_and_update();
        match phase {
            Phase::Killed => return,
            Phase::Over => {
                let mut last = presence(wiring, started_us);
                last.gauges.insert(FAREWELL.to_string(), 1.0);
                client.publish(subject, encode(&last).into()).await.ok();
                return;
            }
            Phase::Making | Phase::Ready { .. } => {
                client.publish(subject.clone(), encode(&presence(wiring, started_us)).into()).await.ok();
            }
        }
        tokio::select! { _ = beat.tick() => {}, gone = told.changed() => if gone.is_err() { return } }
    }
}

fn presence(wiring: &Wiring, started_us: u64) -> Presence {
    let Snapshot { report, counts } = snapshot(&wiring.shared);
    let Identity { id, host, pid, .. } = &wiring.identity;
    // What the driver counts goes beside the stage's own, under the names that Prometheus gets.
    let bytes = [("received_bytes", counts.bytes_in), ("sent_bytes", counts.bytes_out)];
    let own = report.gauges.into_iter().map(|(name, value)| (name.to_string(), value));
    Presence {
        stage: wiring.stage.to_string(),
        id: id.clone(),
        host: host.clone(),
        pid: *pid,
        started_us,
        done: report.done,
        waiting: report.waiting,
        free: report.free,
        versions: report.versions,
        gauges: own.chain(bytes.map(|(name, count)| (name.to_string(), count as f64))).collect(),
        line: report.line,
    }
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.as_micros() as u64).unwrap_or(0)
}

/// Tells the driver of other stages, and when one of them has fallen silent.
async fn watch_presence(client: Client, wiring: Arc<Wiring>, link: Arc<Link>, mut told: watch::Receiver<Phase>) {
    match told.wait_for(|phase| *phase != Phase::Making).await.map(|phase| *phase) {
        Ok(Phase::Ready { watch: true }) => {}
        _ => return,
    }
    let Ok(mut messages) = client.subscribe(subjects::presence_all(&wiring.identity.run)).await else { return };
    let mut seen: BTreeMap<String, (String, Instant)> = BTreeMap::new();
    let mut look = tokio::time::interval(Duration::from_millis(250));
    let mut generation = link.generation();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return };
                let Ok(presence) = decode::<Presence>(&message.payload) else { continue };
                let farewell = presence.gauges.contains_key(FAREWELL);
                let Presence { stage, id, .. } = &presence;
                let word = if farewell {
                    seen.remove(id);
                    Input::Gone { stage: stage.clone(), id: id.clone() }
                } else {
                    seen.insert(id.clone(), (stage.clone(), Instant::now()));
                    Input::Presence(Box::new(presence))
                };
                if wiring.to.send(Control::Input(word)).is_err() { return }
            }
            _ = look.tick() => {
                // Silence while the server was gone says nothing.
                if !link.is_up() || link.generation() != generation {
                    generation = link.generation();
                    seen.values_mut().for_each(|(_, at)| *at = Instant::now());
                }
                let silent: Vec<String> = seen.iter().filter(|(_, (_, at))| at.elapsed() > SILENCE).map(|(id, _)| id.clone()).collect();
                for id in silent {
                    let Some((stage, _)) = seen.remove(&id) else { continue };
                    if wiring.to.send(Control::Input(Input::Gone { stage, id })).is_err() { return }
                }
            }
        }
    }
}

/// `PING`, `INFO` and `STATS` as a NATS micro-service, with one endpoint that gives the report.
async fn serve_micro(client: &Client, wiring: &Arc<Wiring>) -> Result<async_nats::service::Service, async_nats::Error> {
    let shared = wiring.shared.clone();
    let stats = move |_: String, _: async_nats::service::endpoint::Stats| report_json(&shared);
    let metadata = HashMap::from([("run".to_string(), wiring.identity.run.clone()), ("id".to_string(), wiring.identity.id.clone())]);
    let service = client
        .service_builder()
        .description("a stage of Errand")
        .metadata(metadata)
        .stats_handler(stats)
        .start(wiring.stage, env!("CARGO_PKG_VERSION"))
        .await?;
    let subject = format!("errand.{}.report.{}", wiring.identity.run, wiring.identity.id);
    let mut endpoint = service.endpoint_builder().name("report").add(subject).await?;
    let shared = wiring.shared.clone();
    tokio::spawn(async move {
        while let Some(request) = endpoint.next().await {
            let answer = report_json(&shared).to_string();
            request.respond(Ok(answer.into())).await.ok();
        }
    });
    Ok(service)
}

fn report_json(shared: &Shared) -> serde_json::Value {
    let now = snapshot(shared);
    serde_json::json!({
        "done": now.report.done, "waiting": now.report.waiting, "free": now.report.free, "versions": now.report.versions,
        "gauges": now.report.gauges, "line": now.report.line,
        "received": now.counts.received, "sent": now.counts.sent, "rejected": now.counts.rejected, "errors": now.counts.errors,
        "steps": now.counts.steps, "step_seconds": now.counts.step_seconds,
    })
}

async fn serve_metrics(listener: std::net::TcpListener, wiring: Arc<Wiring>) {
    let mut registry = prometheus_client::registry::Registry::default();
    let gatherer = Gatherer {
        shared: wiring.shared.clone(),
        stage: wiring.stage.to_string(),
        id: wiring.identity.id.clone(),
        run: wiring.identity.run.clone(),
    };
    registry.register_collector(Box::new(gatherer));
    let registry = Arc::new(registry);
    let answer = move || {
        let registry = registry.clone();
        async move {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).ok();
            ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        }
    };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(answer));
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::warn!("metrics ended: {error}");
    }
}
