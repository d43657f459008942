//! Makes what a run needs on the broker, before any stage starts, and removes it.
//!
//! Stages bind streams and durables and never make them: an interest stream without its durables would take an end,
//! confirm it and store nothing.

use crate::Error;
use crate::error::check_name;
use async_nats::Client;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::kv::CreateErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, kv, object_store};
use schemas::Split;
use schemas::pipeline::{Phase, Pipeline};
use schemas::subjects::{self, Stream};
use std::time::{Duration, SystemTime};

/// The key of the pipeline's text in the run's bucket.
pub const PIPELINE_KEY: &str = "pipeline";

/// Where a run's bucket says when it was made.
const SINCE_KEY: &str = "since";

const MIB: i64 = 1 << 20;

/// Makes all streams, durables and buckets of a run and stores the pipeline's text. What is there already is kept.
///
/// # Errors
/// A bad run name, or the broker's own words.
pub async fn init(client: &Client, run: &str, pipeline: &Pipeline, text: &str) -> Result<(), Error> {
    init_above(client, run, pipeline, text, None).await
}

/// As [`init`]; a policies stream that is made anew numbers its messages above `version`, so that versions never go back.
///
/// # Errors
/// As [`init`].
pub async fn init_above(client: &Client, run: &str, pipeline: &Pipeline, text: &str, version: Option<u64>) -> Result<(), Error> {
    check_name(run, "choose another --run")?;
    let js = jetstream::new(client.clone());
    for config in stream_configs(run, pipeline, version) {
        make_stream(&js, config).await?;
    }
    for (stream, config) in durable_configs(run, pipeline) {
        let name = config.durable_name.clone().unwrap_or_default();
        let made = js.create_consumer_on_stream(config, stream.clone()).await;
        made.map_err(|e| Error::broker(format!("making the durable `{name}` of `{stream}`"), e))?;
    }
    make_buckets(&js, run, pipeline).await?;
    let bucket = js.get_key_value(subjects::bucket(run)).await.map_err(|e| Error::broker("opening the run's bucket", e))?;
    // Written once: who finds another value than before knows that the broker has forgotten the run meanwhile.
    let made_us = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    match bucket.create(SINCE_KEY, made_us.to_string().into()).await {
        Ok(_) => {}
        Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::broker("storing when the run began", error)),
    }
    // Last of all: a run exists once its pipeline does.
    bucket.put(PIPELINE_KEY, text.to_string().into()).await.map_err(|e| Error::broker("storing the pipeline", e))?;
    Ok(())
}

async fn make_stream(js: &jetstream::Context, config: Config) -> Result<(), Error> {
    let name = config.name.clone();
    match js.get_or_create_stream(config).await {
        Ok(_) => Ok(()),
        Err(error) => Err(stream_error(&name, &error)),
    }
}

fn stream_error(name: &str, error: &async_nats::error::Error<CreateStreamErrorKind>) -> Error {
    let hint = match error.kind() {
        CreateStreamErrorKind::JetStream(e) if e.error_code().0 == 10047 => {
            "lower broker.stream_mib, or give the server's JetStream folder more room"
        }
        CreateStreamErrorKind::JetStreamUnavailable | CreateStreamErrorKind::TimedOut => {
            "start the server with JetStream: `nats-server -js`"
        }
        _ => "`errand rm RUN` removes what an older run of that name left",
    };
    Error::Broker { doing: format!("making the stream `{name}`"), reason: error.to_string(), hint }
}

fn stream_configs(run: &str, pipeline: &Pipeline, version: Option<u64>) -> Vec<Config> {
    let full = i64::from(pipeline.broker.stream_mib) * MIB;
    let base = |what: Stream, subject: String, bytes: i64| Config {
        name: subjects::stream(run, what),
        subjects: vec![subject],
        max_bytes: bytes,
        // A full stream pushes back, it forgets nothing.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: 1,
        allow_direct: true,
        ..Config::default()
    };
    let wildcard = |what: &str| format!("errand.{run}.{what}.>");
    let small = full.min(16 * MIB);
    vec![
        Config { retention: RetentionPolicy::WorkQueue, ..base(Stream::Episodes, wildcard("episodes"), full.min(256 * MIB)) },
        Config {
            retention: RetentionPolicy::Interest,
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            ..base(Stream::Ends, wildcard("ends"), full)
        },
        Config { first_sequence: version.map(|v| v + 1), ..base(Stream::Policies, subjects::policies(run), small) },
        Config { max_messages_per_subject: 1, ..base(Stream::Grants, subjects::grants(run), small) },
        base(Stream::Cancel, subjects::cancel(run), small),
        base(Stream::Rejected, subjects::rejected(run), full.min(256 * MIB)),
    ]
}

fn durable_configs(run: &str, pipeline: &Pipeline) -> Vec<(String, pull::Config)> {
    let ack_wait = Duration::from_secs_f64(pipeline.broker.ack_wait_s.max(0.1));
    let base = |name: String, filter: String, pending: i64| pull::Config {
        durable_name: Some(name),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        max_deliver: -1,
        filter_subject: filter,
        max_ack_pending: pending,
        max_waiting: 4096,
        ..pull::Config::default()
    };
    let episodes = subjects::stream(run, Stream::Episodes);
    let world = &pipeline.world.name;
    let mut all: Vec<(String, pull::Config)> = Split::ALL
        .into_iter()
        .map(|split| {
            let name = subjects::episodes_durable(world, split);
            (episodes.clone(), base(name, subjects::episodes(run, world, split), max_ack_pending_episodes(pipeline)))
        })
        .collect();
    let ends = subjects::stream(run, Stream::Ends);
    let every = format!("errand.{run}.ends.>");
    let pending = max_ack_pending_ends(pipeline);
    for name in [subjects::ENDS_LEARNER, subjects::ENDS_RECORDER, subjects::ENDS_LOADER] {
        let headers_only = name == subjects::ENDS_LOADER;
        all.push((ends.clone(), pull::Config { headers_only, ..base(name.to_string(), every.clone(), pending) }));
    }
    all
}

/// MaxAckPending of each episodes durable: twice the slots of all steppers, with room for steppers that join later.
pub fn max_ack_pending_episodes(pipeline: &Pipeline) -> i64 {
    let steppers = i64::from(pipeline.stages.env_steppers) + 16;
    (2 * steppers * i64::from(pipeline.stages.slots)).max(1000)
}

/// MaxAckPending of each ends durable: twice what the learner may hold until a checkpoint, and what the recorder may
/// hold until a commit. A durable that reached it would stop dead.
pub fn max_ack_pending_ends(pipeline: &Pipeline) -> i64 {
    let group = i64::from(pipeline.episodes.group_size.max(pipeline.episodes.group_size_hard).max(1));
    let checkpoint = i64::from(pipeline.learner.checkpoint_every.max(1));
    let batches = i64::from(pipeline.max_staleness()) + 1 + checkpoint;
    let per_batch = |phase: Phase, batch: i64| match phase {
        Phase::Grpo => batch * group,
        Phase::Imitation | Phase::Format | Phase::Dagger => batch,
    };
    let trained = pipeline.schedule.iter().map(|p| batches * per_batch(p.phase, i64::from(p.batch))).max().unwrap_or(0);
    let validated = 2 * i64::try_from(pipeline.episodes.validation).unwrap_or(i64::MAX / 8);
    let recorded = i64::from(pipeline.record.commit_episodes) * i64::from(pipeline.stages.recorders.max(1));
    (2 * (trained + validated).max(recorded)).max(20_000)
}

async fn make_buckets(js: &jetstream::Context, run: &str, pipeline: &Pipeline) -> Result<(), Error> {
    let full = i64::from(pipeline.broker.stream_mib) * MIB;
    let bucket = subjects::bucket(run);
    if js.get_key_value(bucket.clone()).await.is_err() {
        let config = kv::Config { bucket, history: 1, max_bytes: full.min(64 * MIB), storage: StorageType::File, ..kv::Config::default() };
        js.create_key_value(config).await.map_err(|e| Error::broker("making the run's bucket", e))?;
    }
    for (bucket, max_bytes) in [(subjects::artifacts(run), 2 * full), (subjects::claims(run), full)] {
        if js.get_object_store(&bucket).await.is_ok() {
            continue;
        }
        let config =
            object_store::Config { bucket: bucket.clone(), max_bytes, storage: StorageType::File, ..object_store::Config::default() };
        js.create_object_store(config).await.map_err(|e| Error::broker(format!("making the object bucket `{bucket}`"), e))?;
    }
    Ok(())
}

/// Removes all that a run has on the broker. A run that is not there is no error.
///
/// # Errors
/// The broker's own words.
pub async fn remove(client: &Client, run: &str) -> Result<(), Error> {
    check_name(run, "`errand ls` shows the runs that are there")?;
    let js = jetstream::new(client.clone());
    let streams = [Stream::Episodes, Stream::Ends, Stream::Policies, Stream::Grants, Stream::Cancel, Stream::Rejected];
    let mut names: Vec<String> = streams.into_iter().map(|s| subjects::stream(run, s)).collect();
    // Buckets are streams as well, by the naming rules of JetStream's key-value and object stores.
    names.extend([
        format!("OBJ_{}", subjects::artifacts(run)),
        format!("OBJ_{}", subjects::claims(run)),
        format!("KV_{}", subjects::bucket(run)),
    ]);
    for name in names {
        if is_there(&js, &name).await? {
            js.delete_stream(&name).await.map_err(|e| Error::broker(format!("removing the stream `{name}`"), e))?;
        }
    }
    Ok(())
}

/// Whether the run is there: its bucket, with a pipeline in it.
///
/// # Errors
/// The broker's own words.
pub async fn exists(client: &Client, run: &str) -> Result<bool, Error> {
    Ok(find_pipeline(client, run).await?.is_some())
}

/// The text of the run's pipeline.
///
/// # Errors
/// [`Error::NoRun`], or the broker's own words.
pub async fn pipeline_text(client: &Client, run: &str) -> Result<String, Error> {
    let info = client.server_info();
    let no_run = || Error::NoRun { run: run.to_string(), url: format!("{}:{}", info.host, info.port) };
    let bytes = find_pipeline(client, run).await?.ok_or_else(no_run)?;
    String::from_utf8(bytes).map_err(|e| Error::BadPipeline { run: run.to_string(), reason: e.to_string() })
}

async fn find_pipeline(client: &Client, run: &str) -> Result<Option<Vec<u8>>, Error> {
    check_name(run, "a run's name is what `errand init --run` was given")?;
    let js = jetstream::new(client.clone());
    let name = subjects::bucket(run);
    if !is_there(&js, &format!("KV_{name}")).await? {
        return Ok(None);
    }
    let bucket = js.get_key_value(name).await.map_err(|e| Error::broker("opening the run's bucket", e))?;
    let value = bucket.get(PIPELINE_KEY).await.map_err(|e| Error::broker("reading the pipeline", e))?;
    Ok(value.map(|bytes| bytes.to_vec()))
}

/// When the broker's record of a run was made, Unix microseconds; 0 where it does not say.
pub(crate) async fn since_us(client: &Client, run: &str) -> Result<u64, Error> {
    let js = jetstream::new(client.clone());
    let bucket = js.get_key_value(subjects::bucket(run)).await.map_err(|e| Error::broker("opening the run's bucket", e))?;
    let value = bucket.get(SINCE_KEY).await.map_err(|e| Error::broker("reading when the run began", e))?;
    Ok(value.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok()).unwrap_or(0))
}

async fn is_there(js: &jetstream::Context, stream: &str) -> Result<bool, Error> {
    match js.get_stream(stream).await {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(false),
            _ => Err(Error::broker(format!("looking for the stream `{stream}`"), error)),
        },
    }
}
