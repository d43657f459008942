//! `/inference/v1/generate`: token ids in, token ids out.

use super::core::Event;
use super::params::{self, Asked, Body, Fields};
use super::reply::{Reply, collect, finite, identity, prompt_logprobs, ranked, room, start, stop_reason, stream, usage};
use super::{ApiError, App};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use policy::TokenLogprob;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn generate(State(app): State<Arc<App>>, Body(map): Body) -> Result<Response, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let ids = fields.get("token_ids").ok_or_else(|| fields.wrong("token_ids", "Field required"))?;
    if ids.as_array().is_some_and(Vec::is_empty) {
        return Err(fields.wrong("token_ids", "List should have at least 1 item after validation, not 0"));
    }
    let tokens = fields.ids("token_ids")?;
    let tokens: Vec<u32> = tokens
        .into_iter()
        .map(|id| u32::try_from(id).map_err(|_| ApiError::bad(format!("Token id {id} is out of vocabulary"))))
        .collect::<Result<_, _>>()?;
    let Some(sampling) = fields.get("sampling_params") else { return Err(fields.wrong("sampling_params", "Field required")) };
    let sampling = sampling.as_object().ok_or_else(|| fields.wrong("sampling_params", "Input should be a valid dictionary"))?;
    let adapter = params::model(&app, &fields)?;
    // What stands beside the sampling parameters counts as one of them.
    let mut all = sampling.clone();
    for name in ["stream", "stream_options", "cache_salt", "return_token_ids"] {
        if let Some(value) = map.get(name) {
            all.insert(name.to_string(), value.clone());
        }
    }
    let inner = Fields { map: &all, at: "body.sampling_params" };
    let mut asked = params::asked(&app, &inner, &["max_tokens"], Some(16))?;
    asked.skip_special = false;
    if let Some(count) = inner.int("logprobs")? {
        params::check_logprobs("logprobs", count)?;
        asked.sampling.top_logprobs = Some(params::top_logprobs(&app, count)?);
    }
    let as_text = fields.text("output_mode")? == Some("text");
    let (tokens, max_tokens) = params::fit(&app, tokens, &asked)?;
    room(&app, asked.n)?;
    let id = fields.text("request_id")?.map_or_else(|| identity("generate-tokens"), str::to_string);
    let head = json!({ "request_id": id, "model": super::completions::served(&app, &fields), "created": super::models::unix_s() });
    let replies: Vec<_> = (0..asked.n).map(|index| start(&app, tokens.clone(), max_tokens, &asked, index, adapter.clone())).collect();
    if asked.stream {
        return Ok(streamed(app, replies, tokens.len(), asked, head));
    }
    let (mut choices, mut sampled, mut prompt_scores) = (vec![], 0, Value::Null);
    for (index, events) in replies.into_iter().enumerate() {
        let reply = collect(events).await?;
        sampled += reply.tokens.len();
        if asked.sampling.prompt_logprobs.is_some() {
            prompt_scores = prompt_logprobs(&app, &reply.done);
        }
        choices.push(choice(index, &reply, &asked, as_text));
    }
    let mut body = head;
    body["usage"] = usage(tokens.len(), sampled);
    body["prompt_logprobs"] = prompt_scores;
    for name in ["prompt_token_id_logprobs", "mm_placeholders", "metrics", "kv_transfer_params", "ec_transfer_params"] {
        body[name] = Value::Null;
    }
    body["prompt_token_ids"] = if asked.return_token_ids { json!(tokens) } else { Value::Null };
    body["output_mode"] = json!(if as_text { "text" } else { "tokens" });
    body["choices"] = json!(choices);
    Ok(Json(body).into_response())
}

fn choice(index: usize, reply: &Reply, asked: &Asked, as_text: bool) -> Value {
    let versions: Vec<Value> =
        reply.done.versions.iter().map(|(name, start, end)| json!({ "version": name, "start": start, "end": end })).collect();
    let mut value = json!({
        "index": index,
        "finish_reason": reply.done.reason,
        "stop_reason": stop_reason(&reply.done),
        "token_ids": reply.ids(),
        "routed_experts": null,
        "sampling_mask": null,
        "weight_versions": versions,
        "logprobs": asked.sampling.top_logprobs.map(|count| content(&reply.tokens, count)),
    });
    if as_text {
        value["text"] = json!(reply.text);
    }
    value
}

fn content(tokens: &[TokenLogprob], count: u32) -> Value {
    let entries = tokens.iter().map(|token| {
        let top: Vec<Value> = ranked(token)
            .into_iter()
            .take(count.max(1) as usize)
            .map(|(id, logprob, rank)| json!({ "token_id": id, "logprob": finite(logprob), "rank": rank }))
            .collect();
        json!({ "token_id": token.id, "logprob": finite(token.logprob), "rank": token.rank, "top_logprobs": top })
    });
    json!({ "content": entries.collect::<Vec<_>>() })
}

fn streamed(app: Arc<App>, replies: Vec<tokio::sync::mpsc::UnboundedReceiver<Event>>, read: usize, asked: Asked, head: Value) -> Response {
    let (last_head, include_usage) = (head.clone(), asked.include_usage);
    let chunk = move |_: &App, index: usize, event: Event| {
        if event.tokens.is_empty() && event.done.is_none() {
            return vec![];
        }
        let done = event.done.unwrap_or_default();
        let mut value = head.clone();
        value["choices"] = json!([{
            "index": index,
            "token_ids": event.tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
            "logprobs": asked.sampling.top_logprobs.map(|count| content(&event.tokens, count)),
            "finish_reason": if done.reason.is_empty() { Value::Null } else { json!(done.reason) },
            "stop_reason": stop_reason(&done),
        }]);
        vec![value]
    };
    let last = move |counts: &[usize]| {
        include_usage.then(|| {
            let mut value = last_head;
            value["choices"] = json!([]);
            value["usage"] = usage(read, counts.iter().sum());
            value
        })
    };
    stream(app, replies, vec![], chunk, last)
}
