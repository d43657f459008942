//! What routes have in common: handing jobs over, collecting what comes back, and streams of server-sent events.

use super::core::{Done, Event, Job};
use super::params::Asked;
use super::{ApiError, App};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use policy::TokenLogprob;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// A reply as a whole.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) tokens: Vec<TokenLogprob>,
    pub(crate) text: String,
    pub(crate) done: Done,
}

impl Reply {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

/// Hands one job over; its events come out of the receiver.
pub(crate) fn start(
    app: &App,
    tokens: Vec<u32>,
    max_tokens: u32,
    asked: &Asked,
    index: usize,
    adapter: Option<String>,
) -> mpsc::UnboundedReceiver<Event> {
    let (events, receiver) = mpsc::unbounded_channel();
    let mut sampling = asked.sampling.clone();
    sampling.max_tokens = max_tokens;
    sampling.min_tokens = sampling.min_tokens.min(max_tokens);
    sampling.seed = sampling.seed.wrapping_add(index as u64);
    app.core.submit(Job {
        tokens,
        pictures: asked.pictures.clone(),
        sampling,
        stop_ids: asked.stop_ids.clone(),
        silent: asked.silent.clone(),
        stop: asked.stop.clone(),
        include_stop: asked.include_stop,
        skip_special: asked.skip_special,
        salt: asked.salt,
        adapter,
        events,
    });
    receiver
}

/// Whether the queue takes so many more.
pub(crate) fn room(app: &App, count: usize) -> Result<(), ApiError> {
    if app.core.has_room(count) { Ok(()) } else { Err(ApiError::unavailable("The server's queue is full; hint: try again later")) }
}

/// Waits for a whole reply.
pub(crate) async fn collect(mut events: mpsc::UnboundedReceiver<Event>) -> Result<Reply, ApiError> {
    let mut reply = Reply::default();
    while let Some(event) = events.recv().await {
        reply.tokens.extend(event.tokens);
        reply.text.push_str(&event.text);
        if let Some(done) = event.done {
            if done.reason == "error" {
                return Err(ApiError::internal(if done.message.is_empty() { "Internal server error".to_string() } else { done.message }));
            }
            reply.done = done;
            return Ok(reply);
        }
    }
    Err(ApiError::internal("EngineCore encountered an issue. See stack trace (above) for the root cause."))
}

pub(crate) fn usage(prompt: usize, sampled: usize) -> Value {
    json!({ "prompt_tokens": prompt, "total_tokens": prompt + sampled, "completion_tokens": sampled,
        "prompt_tokens_details": null, "completion_tokens_details": null })
}

/// The stop text or id that ended a reply.
pub(crate) fn stop_reason(done: &Done) -> Value {
    match (&done.stop_text, done.stop_id) {
        (Some(text), _) => json!(text),
        (None, Some(id)) => json!(id),
        (None, None) => Value::Null,
    }
}

/// JSON has no infinities; vLLM writes this for what has no probability.
pub(crate) fn finite(logprob: f32) -> f64 {
    f64::from(logprob.max(-9999.0))
}

/// A token's text, or its number where the request wants that.
pub(crate) fn shown(app: &App, id: u32, asked: &Asked) -> String {
    if asked.tokens_as_ids { format!("token_id:{id}") } else { app.text.token(id) }
}

/// The sampled id, then the best others, as vLLM orders them.
pub(crate) fn ranked(token: &TokenLogprob) -> Vec<(u32, f32, u32)> {
    let mut all = vec![(token.id, token.logprob, token.rank)];
    let others = token.top.iter().enumerate().filter(|(_, (id, _))| *id != token.id);
    all.extend(others.map(|(rank, (id, logprob))| (*id, *logprob, rank as u32 + 1)));
    all
}

/// `prompt_logprobs`: nothing for the first token.
pub(crate) fn prompt_logprobs(app: &App, done: &Done) -> Value {
    let entry = |token: &TokenLogprob| {
        let entries = ranked(token).into_iter().map(|(id, logprob, rank)| {
            (id.to_string(), json!({ "logprob": finite(logprob), "rank": rank, "decoded_token": app.text.token(id) }))
        });
        Value::Object(entries.collect())
    };
    Value::Array(std::iter::once(Value::Null).chain(done.prompt_logprobs.iter().map(entry)).collect())
}

/// A number that no other reply of this process has.
pub(crate) fn identity(prefix: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let digest = blake3::hash(&[super::models::unix_s().to_le_bytes(), count.to_le_bytes()].concat());
    format!("{prefix}-{}", &digest.to_hex()[..16])
}

/// Events of several replies, each as text of a chunk; a reader that is slow or gone holds up nobody.
pub(crate) fn stream<F>(
    app: Arc<App>,
    replies: Vec<mpsc::UnboundedReceiver<Event>>,
    first: Vec<Value>,
    mut chunk: F,
    last: impl FnOnce(&[usize]) -> Option<Value> + Send + 'static,
) -> Response
where
    F: FnMut(&App, usize, Event) -> Vec<Value> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<Result<String, std::convert::Infallible>>(64);
    tokio::spawn(async move {
        for value in first {
            if sender.send(Ok(format!("data: {value}\n\n"))).await.is_err() {
                return;
            }
        }
        let mut counts = vec![0; replies.len()];
        let mut open: Vec<Option<mpsc::UnboundedReceiver<Event>>> = replies.into_iter().map(Some).collect();
        while open.iter().any(Option::is_some) {
            let (index, event) = tokio::select! {
                event = next(&mut open) => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else {
                open[index] = None;
                continue;
            };
            counts[index] += event.tokens.len();
            let failed = event.done.as_ref().filter(|done| done.reason == "error").map(|done| done.message.clone());
            let values = match failed {
                Some(message) => vec![ApiError::internal(message).body()],
                None => chunk(&app, index, event),
            };
            for value in values {
                if sender.send(Ok(format!("data: {value}\n\n"))).await.is_err() {
                    return;
                }
            }
        }
        if let Some(value) = last(&counts) {
            drop(sender.send(Ok(format!("data: {value}\n\n"))).await);
        }
        drop(sender.send(Ok("data: [DONE]\n\n".to_string())).await);
    });
    let body = Body::from_stream(tokio_stream(receiver));
    ([("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")], body).into_response()
}

fn tokio_stream<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

/// The next event of any reply.
async fn next(open: &mut [Option<mpsc::UnboundedReceiver<Event>>]) -> (usize, Option<Event>) {
    std::future::poll_fn(|context| {
        for (index, receiver) in open.iter_mut().enumerate() {
            if let Some(receiver) = receiver
                && let std::task::Poll::Ready(event) = receiver.poll_recv(context)
            {
                return std::task::Poll::Ready((index, event));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
