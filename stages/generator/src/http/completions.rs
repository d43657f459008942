//! `/v1/completions`.

use super::core::{Done, Event};
use super::params::{self, Asked, Body, Fields, integer};
use super::reply::{self, Reply, collect, finite, identity, prompt_logprobs, ranked, room, shown, start, stop_reason, stream, usage};
use super::{ApiError, App};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use policy::TokenLogprob;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most prompts of one request.
const PROMPTS: usize = 1024;

/// What one choice is made from.
struct Prompt {
    tokens: Vec<u32>,
    max_tokens: u32,
}

pub(crate) async fn completions(State(app): State<Arc<App>>, Body(map): Body) -> Result<Response, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let logprobs = count_of(&fields)?;
    let echo = fields.flag("echo", false)?;
    // `echo` with `max_tokens` 0 asks for the prompt's own scores; one token is sampled and left out.
    let silent = echo && fields.int("max_tokens")? == Some(0);
    let mut map = map.clone();
    if silent {
        map.insert("max_tokens".into(), json!(1));
    }
    let fields = Fields { map: &map, at: "body" };
    let prompts = prompts(&app, &fields)?;
    let adapter = params::model(&app, &fields)?;
    let mut asked = params::asked(&app, &fields, &["max_tokens"], Some(16))?;
    if let Some(count) = logprobs {
        asked.sampling.top_logprobs = Some(params::top_logprobs(&app, count)?);
        if echo {
            asked.sampling.prompt_logprobs = asked.sampling.prompt_logprobs.max(asked.sampling.top_logprobs);
        }
    }
    let prompts: Vec<Prompt> = prompts
        .into_iter()
        .map(|tokens| params::fit(&app, tokens, &asked).map(|(tokens, max_tokens)| Prompt { tokens, max_tokens }))
        .collect::<Result<_, _>>()?;
    room(&app, prompts.len() * asked.n)?;
    let served = served(&app, &fields);
    let (id, created) = (identity("cmpl"), super::models::unix_s());
    let jobs = prompts.iter().flat_map(|prompt| (0..asked.n).map(move |index| (prompt, index)));
    let replies: Vec<_> =
        jobs.map(|(prompt, index)| start(&app, prompt.tokens.clone(), prompt.max_tokens, &asked, index, adapter.clone())).collect();
    let head = json!({ "id": id, "object": "text_completion", "created": created, "model": served });
    if asked.stream {
        return Ok(streamed(app, replies, prompts, asked, echo, head));
    }
    let mut choices = vec![];
    let (mut read, mut sampled) = (0, 0);
    for (index, events) in replies.into_iter().enumerate() {
        let reply = collect(events).await?;
        let prompt = &prompts[index / asked.n];
        read += if index % asked.n == 0 { prompt.tokens.len() } else { 0 };
        sampled += reply.tokens.len();
        choices.push(choice(&app, index, prompt, reply, &asked, echo, silent));
    }
    let mut body = head;
    body["choices"] = json!(choices);
    for name in ["service_tier", "system_fingerprint", "kv_transfer_params", "ec_transfer_params", "metrics"] {
        body[name] = Value::Null;
    }
    body["usage"] = usage(read, sampled);
    Ok(Json(body).into_response())
}

/// The name that the reply says it is from.
pub(crate) fn served(app: &App, fields: &Fields<'_>) -> String {
    fields.get("model").and_then(Value::as_str).unwrap_or(&app.names[0]).to_string()
}

fn count_of(fields: &Fields<'_>) -> Result<Option<i64>, ApiError> {
    for name in ["logprobs", "prompt_logprobs"] {
        if let Some(value) = fields.get(name)
            && !value.is_number()
        {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
            return Err(ApiError::param(name, format!("`{name}` must be an integer. (parameter={name}, value={shown})")));
        }
    }
    let count = fields.int("logprobs")?;
    count.map_or(Ok(()), |count| params::check_logprobs("logprobs", count))?;
    Ok(count)
}

/// The prompts' tokens: a text, a list of ids, or a list of either.
fn prompts(app: &App, fields: &Fields<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let none = || ApiError::param("prompt", "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)");
    let special = fields.flag("add_special_tokens", true)?;
    let list = match fields.get("prompt") {
        None => return Err(none()),
        Some(Value::String(text)) if text.is_empty() => return Err(none()),
        Some(Value::String(text)) => return Ok(vec![app.text.encode(text, special)?]),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(fields.wrong("prompt", "Input should be a valid list")),
    };
    let ids = |list: &[Value]| -> Result<Vec<u32>, ApiError> {
        let id = |value: &Value| integer(value).ok().and_then(|id| u32::try_from(id).ok());
        list.iter().map(id).collect::<Option<_>>().ok_or_else(|| fields.wrong("prompt.0", "Input should be greater than or equal to 0"))
    };
    if list.len() > PROMPTS && list.iter().all(|value| !value.is_number()) {
        return Err(ApiError::param(
            "prompt",
            format!("prompt list length {} exceeds the maximum allowed count of {PROMPTS}.", list.len()),
        ));
    }
    match list.first() {
        None => Err(ApiError::bad("You must pass at least one prompt")),
        Some(Value::Number(_)) => Ok(vec![ids(list)?]),
        Some(_) => list
            .iter()
            .map(|prompt| match prompt {
                Value::String(text) => app.text.encode(text, special),
                Value::Array(list) => ids(list),
                _ => Err(fields.wrong("prompt", "Input should be a valid list")),
            })
            .collect(),
    }
}

fn choice(app: &App, index: usize, prompt: &Prompt, mut reply: Reply, asked: &Asked, echo: bool, silent: bool) -> Value {
    if silent {
        reply.tokens.clear();
        reply.text.clear();
        reply.done.reason = "length";
    }
    let mut text = reply.text.clone();
    let mut scored = reply.tokens.clone();
    let mut unscored = 0;
    if echo {
        text.insert_str(0, &app.text.decode(&prompt.tokens, asked.skip_special));
        let first = TokenLogprob { id: prompt.tokens[0], ..TokenLogprob::default() };
        unscored = 1;
        scored = std::iter::once(first).chain(reply.done.prompt_logprobs.clone()).chain(scored).collect();
    }
    let logprobs = asked.sampling.top_logprobs.map(|_| logprobs(app, &scored, unscored, asked, 0));
    let asked_prompt = asked.sampling.prompt_logprobs.is_some();
    json!({
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": reply.done.reason,
        "stop_reason": stop_reason(&reply.done),
        "token_ids": asked.return_token_ids.then(|| reply.ids()),
        "prompt_logprobs": asked_prompt.then(|| prompt_logprobs(app, &reply.done)),
        "prompt_token_ids": asked.return_token_ids.then_some(&prompt.tokens),
        "routed_experts": null,
    })
}

/// `logprobs` of tokens whose text starts at `offset`; the first `unscored` have none.
fn logprobs(app: &App, tokens: &[TokenLogprob], unscored: usize, asked: &Asked, mut offset: usize) -> Value {
    let (mut offsets, mut values, mut texts, mut tops) = (vec![], vec![], vec![], vec![]);
    for (at, token) in tokens.iter().enumerate() {
        let text = shown(app, token.id, asked);
        offsets.push(offset);
        offset += text.chars().count();
        texts.push(text);
        if at < unscored {
            values.push(Value::Null);
            tops.push(Value::Null);
            continue;
        }
        values.push(json!(finite(token.logprob)));
        let best = ranked(token).into_iter().map(|(id, logprob, _)| (shown(app, id, asked), json!(finite(logprob))));
        tops.push(Value::Object(best.collect()));
    }
    json!({ "text_offset": offsets, "token_logprobs": values, "tokens": texts, "top_logprobs": tops })
}

fn streamed(
    app: Arc<App>,
    replies: Vec<tokio::sync::mpsc::UnboundedReceiver<Event>>,
    prompts: Vec<Prompt>,
    asked: Asked,
    echo: bool,
    head: Value,
) -> Response {
    let with = move |head: &Value, choices: Value, usage: Option<Value>| {
        let mut value = head.clone();
        value["choices"] = choices;
        value["usage"] = usage.unwrap_or(Value::Null);
        value
    };
    let read: usize = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let (last_head, include_usage) = (head.clone(), asked.include_usage);
    let mut offsets = vec![0; replies.len()];
    let mut counts = vec![0; replies.len()];
    let chunk = move |app: &App, index: usize, event: Event| {
        let prompt = &prompts[index / asked.n];
        let first = counts[index] == 0;
        counts[index] += event.tokens.len();
        let mut text = event.text;
        if first && echo {
            text.insert_str(0, &app.text.decode(&prompt.tokens, asked.skip_special));
        }
        if text.is_empty() && event.tokens.is_empty() && event.done.is_none() {
            return vec![];
        }
        let logprobs = asked.sampling.top_logprobs.map(|_| logprobs(app, &event.tokens, 0, &asked, offsets[index]));
        offsets[index] += text.chars().count();
        let done = event.done.unwrap_or_else(|| Done { reason: "", ..Done::default() });
        let choice = json!({
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": if done.reason.is_empty() { Value::Null } else { json!(done.reason) },
            "stop_reason": reply::stop_reason(&done),
            "prompt_token_ids": (asked.return_token_ids && first).then_some(&prompt.tokens),
            "token_ids": asked.return_token_ids.then(|| event.tokens.iter().map(|token| token.id).collect::<Vec<_>>()),
        });
        let usage = asked.continuous_usage.then(|| usage(prompt.tokens.len(), counts[index]));
        vec![with(&head, json!([choice]), usage)]
    };
    let last = move |counts: &[usize]| include_usage.then(|| with(&last_head, json!([]), Some(usage(read, counts.iter().sum()))));
    stream(app, replies, vec![], chunk, last)
}
