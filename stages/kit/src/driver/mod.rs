//! Drives a stage on a real server: what comes from the broker goes in as [`Input`]s, what the logic answers goes out.
//!
//! Everything is on one thread: the socket, the logic and what lies between. Each turn of the loop takes what is ready,
//! up to a bound, steps the logic once for each, and lets the connection write what came of it in one go. There is no
//! task, no channel of the kit's own and no lock on a message's way.

mod deliveries;
mod dispatch;
mod events;
mod jobs;
mod publishing;

use crate::connect::Link;
use crate::error::Error;
use crate::follow::follow;
use crate::lifeline::DRAIN;
use crate::metrics::{Counts, Shared, Snapshot};
use crate::program::{KILLED, Outcome};
use crate::stage::{Identity, Input, Needs, Now, Stage, Ticket, Work};
use crate::store::Objects;
use async_nats::{Client, Message, Subscriber, jetstream};
use deliveries::{Confirms, Deliveries, Fetches};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jobs::{Done, Job, StateDesk};
use publishing::Publishes;
use schemas::subjects;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Inputs taken in one turn of the loop before their outputs are written.
const BATCH: usize = 64;
const TICK: Duration = Duration::from_millis(100);
/// Every so many ticks the report is taken and shared.
const REPORT_TICKS: u64 = 2;
/// When the stage ends: how long for what is in flight to be confirmed.
const FLUSH: Duration = Duration::from_secs(5);

/// Word from other threads and tasks.
pub(crate) enum Control {
    Input(Input),
    /// `None`: the work panicked.
    Worked {
        ticket: Ticket,
        result: Option<Box<dyn Work>>,
    },
    /// Finish in order.
    Drain,
    /// End as if killed: nothing is handed back, flushed or said.
    Kill,
    Fatal(Error),
}

/// Something that happened, before the logic hears of it.
enum Event {
    Control(Control),
    Done(Done),
    /// On the driver's own inbox: answers, and messages of durables.
    Inbox(Message),
    Core(Message),
    Tick,
}

/// A stage, and all that is under way for it.
pub(crate) struct Driver {
    stage: Box<dyn Stage>,
    identity: Identity,
    started: Instant,
    client: Client,
    link: Arc<Link>,
    objects: Objects,
    /// Answers come on `<inbox>.<kind>.<number>`.
    inbox: String,
    answers: Subscriber,
    core: Vec<Subscriber>,
    control: UnboundedReceiver<Control>,
    /// For threads that the driver starts.
    to_self: UnboundedSender<Control>,
    jobs: FuturesUnordered<Job>,
    deliveries: Deliveries,
    fetches: Fetches,
    confirms: Confirms,
    publishes: Publishes,
    state: StateDesk,
    /// Opened durables by `<stream>.<consumer>`, as their acks name them.
    durables: HashMap<String, crate::stage::Durable>,
    claims_made: u64,
    nonce: u32,
    tick: tokio::time::Interval,
    ticks: u64,
    counts: Counts,
    shared: Shared,
    exit: Option<Outcome>,
    drain_until: Option<Instant>,
}

impl Driver {
    /// Subscribes to all that the stage needs.
    #[expect(clippy::too_many_arguments, reason = "called once, by the program that owns each of them")]
    pub(crate) async fn start(
        client: Client,
        identity: Identity,
        stage: Box<dyn Stage>,
        needs: Needs,
        shared: Shared,
        link: Arc<Link>,
        to_self: UnboundedSender<Control>,
        control: UnboundedReceiver<Control>,
    ) -> Result<Driver, Error> {
        let objects = Objects::open(&client, &identity.run).await?;
        let js = jetstream::new(client.clone());
        let bucket = js.get_key_value(subjects::bucket(&identity.run)).await.map_err(|e| Error::broker("opening the run's bucket", e))?;
        let inbox = client.new_inbox();
        let failed = |e: async_nats::SubscribeError| Error::broker("subscribing", e);
        let answers = client.subscribe(format!("{inbox}.>")).await.map_err(failed)?;
        let mut core = Vec::new();
        for (subject, group) in needs.subscribe {
            core.push(match group {
                Some(group) => client.queue_subscribe(subject, group).await.map_err(failed)?,
                None => client.subscribe(subject).await.map_err(failed)?,
            });
        }
        for (what, from) in needs.follow {
            tokio::spawn(follow(client.clone(), identity.run.clone(), what, from, objects.clone(), to_self.clone()));
        }
        // Whoever hears of this stage may send to it: its subscriptions must be there before.
        client.flush().await.map_err(|e| Error::broker("subscribing", e))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let state = StateDesk::new(bucket, needs.stage, identity.epoch);
        let mut driver = Driver {
            stage,
            started: Instant::now(),
            client,
            link,
            objects,
            inbox,
            answers,
            core,
            control,
            to_self,
            jobs: FuturesUnordered::new(),
            deliveries: Deliveries::default(),
            fetches: Fetches::default(),
            confirms: Confirms::default(),
            publishes: Publishes::default(),
            state,
            durables: HashMap::new(),
            claims_made: 0,
            nonce: rand::random(),
            tick,
            ticks: 0,
            counts: Counts::default(),
            shared,
            exit: None,
            drain_until: None,
            identity,
        };
        // The first presence says what the stage says, not nothing.
        driver.share_report();
        Ok(driver)
    }

    /// Runs until the stage ends.
    ///
    /// # Errors
    /// What ends a stage from outside: the server or the lease is gone for good, its work panicked.
    pub(crate) async fn run(&mut self) -> Result<Outcome, Error> {
        self.feed(Input::Started).await;
        let mut batch = Vec::with_capacity(BATCH);
        let mut busy_rounds = 0;
        while self.exit.is_none() {
            let wants_idle = self.stage.wants_idle();
            self.gather(&mut batch, !wants_idle).await;
            // Messages that never stop coming must not keep a stage from its own work.
            busy_rounds = if batch.is_empty() { 4 } else { busy_rounds + 1 };
            for event in batch.drain(..) {
                self.handle(event).await?;
            }
            if wants_idle && busy_rounds >= 4 && self.exit.is_none() {
                busy_rounds = 0;
                self.feed(Input::Idle).await;
            }
            if self.drain_until.is_some_and(|until| Instant::now() > until) {
                let message = format!("stopped after {} s with work left; others take it up", DRAIN.as_secs());
                self.exit.get_or_insert(Outcome { code: 0, message });
            }
            // Here the connection writes what was sent, and reads.
            tokio::task::yield_now().await;
        }
        let outcome = self.exit.take().unwrap_or(Outcome { code: 0, message: String::new() });
        if outcome.code != KILLED {
            self.finish(&mut batch).await?;
        }
        Ok(outcome)
    }

    /// Waits for what is in flight, with the logic gone, and hands back what still comes.
    async fn finish(&mut self, batch: &mut Vec<Event>) -> Result<(), Error> {
        let until = Instant::now() + FLUSH;
        self.share_report();
        while !self.is_settled() && Instant::now() < until {
            self.gather(batch, true).await;
            for event in batch.drain(..) {
                self.handle_late(event).await?;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await.ok();
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.publishes.is_empty() && self.confirms.is_empty() && self.jobs.is_empty()
    }

    /// Takes what is ready, up to a bound. With `wait`, at least one.
    async fn gather(&mut self, batch: &mut Vec<Event>, wait: bool) {
        poll_fn(|cx| {
            self.poll_all(cx, batch);
            if batch.is_empty() && wait { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn poll_all(&mut self, cx: &mut Context<'_>, batch: &mut Vec<Event>) {
        if self.tick.poll_tick(cx).is_ready() {
            batch.push(Event::Tick);
            // The timer wakes only a task that has seen it pending.
            if self.tick.poll_tick(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        while batch.len() < BATCH {
            let Poll::Ready(Some(control)) = self.control.poll_recv(cx) else { break };
            batch.push(Event::Control(control));
        }
        while batch.len() < BATCH && !self.jobs.is_empty() {
            let Poll::Ready(Some(done)) = self.jobs.poll_next_unpin(cx) else { break };
            batch.push(Event::Done(done));
        }
        while batch.len() < BATCH {
            let Poll::Ready(Some(message)) = self.answers.poll_next_unpin(cx) else { break };
            batch.push(Event::Inbox(message));
        }
        for subscriber in &mut self.core {
            while batch.len() < BATCH {
                let Poll::Ready(Some(message)) = subscriber.poll_next_unpin(cx) else { break };
                batch.push(Event::Core(message));
            }
        }
    }

    /// Steps the logic once and sends what it answers.
    async fn feed(&mut self, input: Input) {
        let begun = Instant::now();
        let unix_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.as_micros() as u64).unwrap_or(0);
        let now = Now { unix_us, mono_ms: begun.duration_since(self.started).as_millis() as u64 };
        let outputs = self.stage.step(input, now);
        self.counts.stepped(begun.elapsed());
        for output in outputs {
            self.dispatch(output).await;
            if self.exit.is_some() {
                break;
            }
        }
    }

    async fn on_tick(&mut self) {
        self.ticks += 1;
        let up = self.link.is_up();
        for (ticket, result) in self.publishes.expire(Instant::now(), up) {
            self.counts.errors += 1;
            self.feed(Input::Published { ticket, result }).await;
        }
        for ended in self.fetches.expire(Instant::now()) {
            self.feed(ended).await;
        }
        self.ask_again(up).await;
        self.feed(Input::Tick).await;
        if self.ticks % REPORT_TICKS == 1 {
            self.share_report();
        }
    }

    fn share_report(&mut self) {
        self.counts.dropped = self.link.dropped();
        let snapshot = Snapshot { report: self.stage.report(), counts: self.counts.clone() };
        if let Ok(mut shared) = self.shared.lock() {
            *shared = snapshot;
        }
    }
}
