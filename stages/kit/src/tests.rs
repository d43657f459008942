//! The driver on a private real server: what a stage is promised holds over crashes, restarts and large payloads.

use crate::stage::{Delivered, Delivery, Durable, Follow, Identity, Input, Needs, Now, Output, PublishError, Report, Stage, Ticket, Work};
use crate::testing::{NatsServer, Running, spawn, wait_until};
use crate::{Options, Outcome};
use async_nats::jetstream;
use schemas::pipeline::Pipeline;
use schemas::subjects::{self, Stream};
use schemas::{EpisodeId, Split};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PIPELINE: &str = r#"
name = "kit"
schedule = []
[world]
name = "frozenlake"
[broker]
wait_s = 20
ack_wait_s = 1
lease_s = 1
stream_mib = 64
"#;

/// A server with a run on it, and a client that is not a stage.
struct Bench {
    server: NatsServer,
    runtime: tokio::runtime::Runtime,
    client: async_nats::Client,
}

impl Bench {
    fn new() -> Bench {
        let server = NatsServer::start();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(crate::connect(&server.url(), Duration::from_secs(5))).unwrap();
        let pipeline = Pipeline::parse(PIPELINE).unwrap();
        runtime.block_on(crate::init(&client, "r", &pipeline, PIPELINE)).unwrap();
        Bench { server, runtime, client }
    }

    fn options(&self, stage: &'static str) -> Options {
        Options { wait: Duration::from_secs(5), ..Options::new(&self.server.url(), "r", stage) }
    }

    fn start<S: Stage + 'static>(&self, stage: &'static str, make: impl FnOnce(Identity) -> S + Send + 'static) -> Running {
        let options = Options { lease: stage == "learner", ..self.options(stage) };
        spawn(options, |identity| Ok(Box::new(make(identity))))
    }

    fn publish(&self, subject: String, payload: Vec<u8>) {
        self.runtime.block_on(async {
            let js = jetstream::new(self.client.clone());
            js.publish(subject, payload.into()).await.unwrap().await.unwrap()
        });
    }

    fn stored(&self, stream: Stream) -> u64 {
        let name = subjects::stream("r", stream);
        self.runtime.block_on(async {
            jetstream::new(self.client.clone()).get_stream(name).await.map(|s| s.cached_info().state.messages).unwrap_or(u64::MAX)
        })
    }
}

fn train(number: u64) -> EpisodeId {
    EpisodeId { split: Split::Train, number }
}

fn episodes() -> Durable {
    Durable { stream: Stream::Episodes, name: subjects::episodes_durable("frozenlake", Split::Train) }
}

/// What a test sees of a stage.
type Log = Arc<Mutex<Vec<String>>>;

fn has(log: &Log, line: &str) -> bool {
    log.lock().unwrap().iter().any(|l| l == line)
}

fn count(log: &Log, start: &str) -> usize {
    log.lock().unwrap().iter().filter(|l| l.starts_with(start)).count()
}

/// A stage whose whole logic is a closure.
struct Closure<F> {
    needs: Needs,
    step: F,
}

impl<F: FnMut(Input, Now) -> Vec<Output> + Send> Stage for Closure<F> {
    fn needs(&self) -> Needs {
        self.needs.clone()
    }
    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        (self.step)(input, now)
    }
    fn report(&self) -> Report {
        Report { done: 7, gauges: BTreeMap::from([("depth_m", 2.5)]), line: "well".into(), ..Report::default() }
    }
}

/// Turns each episode `n` into the end `n`, and counts its deliveries. `crash_at` is never acked.
fn echo(needs_stage: &'static str, log: Log, never: Option<u64>) -> impl Stage {
    let mut held: BTreeMap<u64, Delivery> = BTreeMap::new();
    let fetch = |count| Output::Fetch { durable: episodes(), count };
    let step = move |input: Input, _: Now| match input {
        Input::Started => vec![fetch(4)],
        Input::FetchEnded { missing, .. } => vec![fetch(missing)],
        Input::Message { payload, delivery: Some(Delivered { delivery, count, .. }), .. } => {
            let number: u64 = String::from_utf8(payload).unwrap().parse().unwrap();
            log.lock().unwrap().push(format!("episode {number} delivery {count}"));
            if never == Some(number) {
                return vec![fetch(1)];
            }
            held.insert(number, delivery);
            let subject = subjects::ends("r", train(number));
            vec![Output::PublishDurable {
                ticket: Ticket(number),
                subject,
                headers: BTreeMap::new(),
                payload: vec![1],
                expected_last_sequence: None,
            }]
        }
        Input::Published { ticket: Ticket(number), result } => {
            log.lock().unwrap().push(match result {
                Ok(_) => format!("stored {number}"),
                Err(error) => format!("{error:?} {number}"),
            });
            vec![Output::DoubleAck(held.remove(&number).unwrap()), fetch(1)]
        }
        Input::Drain => vec![Output::Exit { code: 0, message: "drained".into() }],
        _ => vec![],
    };
    Closure { needs: Needs { stage: needs_stage, ..Needs::default() }, step }
}

#[test]
fn episodes_become_ends_and_are_acked() {
    let bench = Bench::new();
    let log = Log::default();
    for number in 0..20 {
        bench.publish(subjects::episodes("r", "frozenlake", Split::Train), number.to_string().into_bytes());
    }
    let seen = log.clone();
    let stage = bench.start("echo", move |_| echo("echo", seen, None));
    wait_until("twenty ends", || bench.stored(Stream::Ends) == 20 && bench.stored(Stream::Episodes) == 0);
    // The same episode once more: its end is there already, and the episode is acked all the same.
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"3".to_vec());
    wait_until("a refusal", || has(&log, "AlreadyThere 3"));
    wait_until("its ack", || bench.stored(Stream::Episodes) == 0);
    stage.stop();
    assert_eq!(stage.join().unwrap(), Outcome { code: 0, message: "drained".into() });
}

#[test]
fn a_stage_without_its_server_for_too_long_ends_with_an_error() {
    let mut bench = Bench::new();
    let text = PIPELINE.replace("wait_s = 20", "wait_s = 0.5");
    let pipeline = Pipeline::parse(&text).unwrap();
    bench.runtime.block_on(crate::init(&bench.client, "r", &pipeline, &text)).unwrap();
    let log = Log::default();
    let seen = log.clone();
    let stage = bench.start("echo", move |_| echo("echo", seen, None));
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"1".to_vec());
    wait_until("the first end", || has(&log, "stored 1"));
    bench.server.stop();
    let error = stage.join().unwrap_err().to_string();
    assert!(error.contains("was gone for") && error.contains("hint:"), "{error}");
}

/// One GET over a plain socket.
fn http_get(port: u16, path: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn prometheus_and_micro_service_clients_find_the_stage() {
    let bench = Bench::new();
    let port = crate::testing::free_port();
    let options = Options { metrics_port: Some(port), id: "echo-1".into(), ..bench.options("echo") };
    let log = Log::default();
    let seen = log.clone();
    let taken = options.clone();
    let stage = spawn(options, move |_| Ok(Box::new(echo("echo", seen, None))));
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"1".to_vec());
    wait_until("an end", || has(&log, "stored 1"));
    let labels = r#"{stage="echo",id="echo-1",run="r"}"#;
    wait_until("metrics", || {
        let text = http_get(port, "/metrics");
        let has = |name: &str, value: &str| text.contains(&format!("{name}{labels} {value}"));
        has("errand_received_total", "1")
            && has("errand_depth_m", "2.5")
            && has("errand_done_total", "7")
            && has("errand_step_seconds_count", "")
    });
    let ask = |subject: &'static str| {
        bench.runtime.block_on(bench.client.request(subject, "".into())).map(|m| String::from_utf8_lossy(&m.payload).into_owned())
    };
    wait_until("the micro-service", || ask("$SRV.PING.echo").is_ok_and(|answer| answer.contains("echo-1")));
    assert!(ask("$SRV.STATS.echo").unwrap().contains("well"));
    assert!(ask("errand.r.report.echo-1").unwrap().contains("\"done\":7"));
    let taken = crate::run(taken, |_| anyhow::bail!("never made")).unwrap_err().to_string();
    assert!(taken.contains("metrics port") && taken.contains("hint:"), "{taken}");
    stage.kill();
}

#[test]
fn what_a_killed_stage_held_is_delivered_again() {
    let bench = Bench::new();
    let log = Log::default();
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"5".to_vec());
    let seen = log.clone();
    let first = bench.start("echo", move |_| echo("echo", seen, Some(5)));
    wait_until("the first delivery", || has(&log, "episode 5 delivery 1"));
    first.kill();
    let seen = log.clone();
    let second = bench.start("echo", move |_| echo("echo", seen, None));
    wait_until("the second delivery", || has(&log, "episode 5 delivery 2") && bench.stored(Stream::Ends) == 1);
    second.kill();
}

#[test]
fn a_restarted_server_loses_nothing_and_stages_go_on() {
    let mut bench = Bench::new();
    let log = Log::default();
    let seen = log.clone();
    let stage = bench.start("echo", move |_| echo("echo", seen, None));
    let needs = Needs { stage: "learner", lease: true, follow: vec![(Stream::Grants, Follow::Last)], ..Needs::default() };
    let seen = log.clone();
    let step = move |input, _| {
        if let Input::Message { payload, .. } = input {
            seen.lock().unwrap().push(format!("grant {payload:?}"));
        }
        vec![]
    };
    let holder = bench.start("learner", move |_| Closure { needs, step });
    bench.publish(subjects::grants("r"), vec![1]);
    wait_until("the first grant", || has(&log, "grant [1]"));
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"1".to_vec());
    wait_until("the first end", || has(&log, "stored 1"));
    bench.server.stop();
    // Longer than the lease lasts: nobody can have taken it.
    std::thread::sleep(Duration::from_millis(1500));
    bench.server.restart();
    wait_until("the client's return", || bench.client.connection_state() == async_nats::connection::State::Connected);
    bench.publish(subjects::episodes("r", "frozenlake", Split::Train), b"2".to_vec());
    wait_until("the second end", || has(&log, "stored 2"));
    wait_until("its ack", || bench.stored(Stream::Episodes) == 0);
    bench.publish(subjects::grants("r"), vec![2]);
    wait_until("the second grant", || has(&log, "grant [2]"));
    assert!(!holder.is_over() && count(&log, "grant") == 2);
    holder.kill();
    stage.kill();
}

/// Sends a payload of this size on a core subject and to the rejected stream, and keeps what comes back.
#[test]
fn payloads_over_the_bound_travel_both_ways() {
    let bench = Bench::new();
    let (log, large) = (Log::default(), vec![7u8; 3 << 20]);
    let seen = log.clone();
    let needs = Needs { stage: "big", subscribe: vec![("errand.r.big".into(), None)], ..Needs::default() };
    let durable = || Durable { stream: Stream::Ends, name: subjects::ENDS_LEARNER.into() };
    let sent = large.clone();
    let stage = bench.start("big", move |_| Closure {
        needs,
        step: move |input, _| match input {
            Input::Started => vec![
                Output::Publish { subject: "errand.r.big".into(), payload: sent.clone() },
                Output::PublishDurable {
                    ticket: Ticket(1),
                    subject: subjects::ends("r", train(1)),
                    headers: BTreeMap::from([("Errand-Group".to_string(), "4".to_string())]),
                    payload: sent.clone(),
                    expected_last_sequence: None,
                },
            ],
            Input::Published { result, .. } => {
                seen.lock().unwrap().push(format!("published {}", result.is_ok()));
                vec![Output::Fetch { durable: durable(), count: 1 }]
            }
            Input::Message { payload, delivery, headers, .. } => {
                let way = if delivery.is_some() { "durable" } else { "core" };
                let group = headers.get("Errand-Group").cloned().unwrap_or_default();
                seen.lock().unwrap().push(format!("{way} {} {group} {}", payload == sent, headers.len()));
                delivery.map(|d| Output::Ack(d.delivery)).into_iter().collect()
            }
            _ => vec![],
        },
    });
    wait_until("both messages", || has(&log, "core true  0") && has(&log, "durable true 4 1"));
    assert!(has(&log, "published true"));
    stage.kill();
}

#[test]
fn a_second_holder_waits_and_takes_over_with_a_higher_epoch() {
    let bench = Bench::new();
    let log = Log::default();
    let holder = |log: Log| {
        move |identity: Identity| {
            log.lock().unwrap().push(format!("made with epoch {}", identity.epoch));
            let step = move |input: Input, _: Now| match input {
                Input::Started => vec![Output::GetState { ticket: Ticket(1) }],
                Input::State { bytes, .. } => {
                    log.lock().unwrap().push(format!("found {:?}", bytes));
                    vec![Output::PutState { ticket: Ticket(2), bytes: vec![identity.epoch as u8] }]
                }
                Input::StatePut { result, .. } => {
                    log.lock().unwrap().push(format!("kept {}", result.is_ok()));
                    vec![]
                }
                Input::Drain => vec![Output::Exit { code: 0, message: String::new() }],
                _ => vec![],
            };
            Closure { needs: Needs { stage: "learner", lease: true, ..Needs::default() }, step }
        }
    };
    let first = bench.start("learner", holder(log.clone()));
    wait_until("the first state", || has(&log, "kept true"));
    let second = bench.start("learner", holder(log.clone()));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(&log, "made with"), 1);
    first.kill();
    wait_until("the takeover", || has(&log, "made with epoch 2") && has(&log, "found Some([1])") && count(&log, "kept true") == 2);
    // A holder that ends in order gives the lease back at once.
    second.stop();
    second.join().unwrap();
    let third = bench.start("learner", holder(log.clone()));
    wait_until("the third holder", || has(&log, "found Some([2])"));
    third.kill();
}

#[test]
fn presence_tells_of_others_and_of_their_end() {
    let bench = Bench::new();
    let log = Log::default();
    let seen = log.clone();
    let watcher = bench.start("watcher", move |_| Closure {
        needs: Needs { stage: "watcher", presence: true, ..Needs::default() },
        step: move |input, _| {
            match input {
                Input::Presence(p) if p.stage == "quiet" => {
                    seen.lock().unwrap().push(format!("{} {} {}", p.done, p.line, p.gauges["depth_m"]))
                }
                Input::Gone { stage, .. } => seen.lock().unwrap().push(format!("gone {stage}")),
                _ => {}
            }
            vec![]
        },
    });
    let quiet = || {
        bench.start("quiet", |_| Closure {
            needs: Needs { stage: "quiet", ..Needs::default() },
            step: |input, _| if matches!(input, Input::Drain) { vec![Output::Exit { code: 0, message: String::new() }] } else { vec![] },
        })
    };
    let leaves = quiet();
    wait_until("presence", || has(&log, "7 well 2.5"));
    leaves.stop();
    wait_until("the farewell", || count(&log, "gone quiet") == 1);
    let dies = quiet();
    let before = count(&log, "7 well");
    wait_until("presence again", || count(&log, "7 well") > before);
    dies.kill();
    wait_until("silence noticed", || count(&log, "gone quiet") == 2);
    watcher.kill();
}

struct Square(u64);

impl Work for Square {
    fn run(self: Box<Self>) -> Box<dyn Work> {
        assert!(self.0 != 13, "no luck");
        Box::new(Square(self.0 * self.0))
    }
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[test]
fn objects_work_streams_and_refusals() {
    let bench = Bench::new();
    let log = Log::default();
    let seen = log.clone();
    let publish = |ticket, expected| Output::PublishDurable {
        ticket: Ticket(ticket),
        subject: subjects::policies("r"),
        headers: BTreeMap::new(),
        payload: vec![ticket as u8],
        expected_last_sequence: Some(expected),
    };
    let stage = bench.start("many", move |_| Closure {
        needs: Needs { stage: "many", follow: vec![(Stream::Policies, Follow::All), (Stream::Grants, Follow::Last)], ..Needs::default() },
        step: move |input, _| {
            let say = |line: String| seen.lock().unwrap().push(line);
            match input {
                Input::Started => {
                    return vec![
                        Output::PutObject { ticket: Ticket(1), name: "a b/c".into(), bytes: vec![9; 300_000] },
                        publish(11, 0),
                        publish(12, 0),
                    ];
                }
                Input::ObjectPut { result, .. } => {
                    say(format!("put {}", result.is_ok()));
                    let get = |name: &str| Output::GetObject { ticket: Ticket(2), name: name.into() };
                    return vec![get("a b/c"), get("nothing"), Output::Work { ticket: Ticket(3), work: Box::new(Square(5)) }];
                }
                Input::Object { name, bytes, .. } => say(format!("{name} {:?}", bytes.map(|b| b.len()))),
                Input::Worked { result, .. } => say(format!("square {}", result.into_any().downcast::<Square>().unwrap().0)),
                Input::Published { ticket, result } => say(format!("{} {result:?}", ticket.0)),
                Input::Message { subject, payload, .. } => say(format!("{subject} {payload:?}")),
                _ => {}
            }
            vec![]
        },
    });
    for line in
        ["put true", "a b/c Some(300000)", "nothing None", "square 25", "11 Ok(1)", "12 Err(WrongSequence)", "errand.r.policies [11]"]
    {
        wait_until(line, || has(&log, line));
    }
    bench.publish(subjects::grants("r"), vec![1]);
    bench.publish(subjects::grants("r"), vec![2]);
    wait_until("the newest grant", || has(&log, "errand.r.grants [2]"));
    assert_eq!(bench.stored(Stream::Grants), 1);
    stage.kill();
}

#[test]
fn work_that_panics_ends_the_stage_with_an_error() {
    let bench = Bench::new();
    let stage = bench.start("unlucky", |_| Closure {
        needs: Needs { stage: "unlucky", ..Needs::default() },
        step: |input, _| {
            if matches!(input, Input::Started) { vec![Output::Work { ticket: Ticket(1), work: Box::new(Square(13)) }] } else { vec![] }
        },
    });
    assert!(stage.join().unwrap_err().to_string().contains("panicked"));
}

#[test]
fn without_a_run_or_a_server_there_is_one_clear_line() {
    let bench = Bench::new();
    let make = |_| -> anyhow::Result<Box<dyn Stage>> { anyhow::bail!("never made") };
    let none = crate::run(Options { run: "other".into(), ..bench.options("s") }, make).unwrap_err().to_string();
    assert!(none.contains("run `other` is not on") && none.contains("hint: `errand init"), "{none}");
    let url = format!("nats://127.0.0.1:{}", crate::testing::free_port());
    let gone = crate::run(Options { nats: url, wait: Duration::from_millis(300), ..bench.options("s") }, make).unwrap_err().to_string();
    assert!(gone.contains("no NATS server answered") && gone.contains("hint:"), "{gone}");
    assert!(crate::run(bench.options("s"), make).unwrap_err().to_string().contains("never made"));
    let bad = crate::run(Options { run: "a.b".into(), ..bench.options("s") }, make).unwrap_err().to_string();
    assert!(bad.contains("allowed: 1 to 64 letters"), "{bad}");
}

#[test]
fn a_run_is_made_found_and_removed() {
    let bench = Bench::new();
    let pipeline = Pipeline::parse(PIPELINE).unwrap();
    let client = bench.client.clone();
    bench.runtime.block_on(async {
        assert!(crate::exists(&client, "r").await.unwrap());
        assert!(!crate::exists(&client, "s").await.unwrap());
        // Making it again changes nothing.
        crate::init(&client, "r", &pipeline, PIPELINE).await.unwrap();
        assert_eq!(crate::pipeline_text(&client, "r").await.unwrap(), PIPELINE);
        crate::remove(&client, "r").await.unwrap();
        assert!(!crate::exists(&client, "r").await.unwrap());
        crate::init_above(&client, "r", &pipeline, PIPELINE, Some(41)).await.unwrap();
        let js = jetstream::new(client.clone());
        let ack = js.publish(subjects::policies("r"), "x".into()).await.unwrap().await.unwrap();
        assert_eq!(ack.sequence, 42);
        crate::remove(&client, "r").await.unwrap();
        crate::remove(&client, "r").await.unwrap();
        assert!(crate::exists(&client, "").await.is_err());
    });
}

#[test]
fn a_full_stream_says_so() {
    let bench = Bench::new();
    let log = Log::default();
    let seen = log.clone();
    // 64 MiB of cancels do not fit into the 16 MiB of that stream.
    let stage = bench.start("filler", move |_| {
        let mut sent = 0;
        Closure {
            needs: Needs { stage: "filler", ..Needs::default() },
            step: move |input, _| {
                let mut more = || {
                    sent += 1;
                    vec![Output::PublishDurable {
                        ticket: Ticket(sent),
                        subject: subjects::cancel("r"),
                        headers: BTreeMap::new(),
                        payload: vec![0; 900_000],
                        expected_last_sequence: None,
                    }]
                };
                match input {
                    Input::Started | Input::Published { result: Ok(_), .. } => more(),
                    Input::Published { result: Err(error), .. } => {
                        seen.lock().unwrap().push(format!("{}", error == PublishError::Full));
                        vec![]
                    }
                    _ => vec![],
                }
            },
        }
    });
    wait_until("the refusal", || has(&log, "true"));
    stage.kill();
}

#[test]
fn limits_leave_room_for_twice_what_is_held() {
    let mut pipeline = Pipeline::parse(PIPELINE).unwrap();
    pipeline.stages.env_steppers = 100;
    pipeline.stages.slots = 512;
    assert!(crate::setup::max_ack_pending_episodes(&pipeline) >= 2 * 100 * 512);
    pipeline.record.commit_episodes = 50_000;
    assert!(crate::setup::max_ack_pending_ends(&pipeline) >= 100_000);
}
