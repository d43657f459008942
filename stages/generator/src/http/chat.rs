//! `/v1/chat/completions`.

use super::completions::served;
use super::core::{Done, Event};
use super::params::{self, Asked, Body, Fields};
use super::reply::{Reply, collect, finite, identity, prompt_logprobs, ranked, room, shown, start, stop_reason, stream, usage};
use super::text::ChatMessage;
use super::{ApiError, App};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use policy::TokenLogprob;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn chat(State(app): State<Arc<App>>, Body(map): Body) -> Result<Response, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let logprobs = logprobs_asked(&fields)?;
    let prompt = prompt(&app, &fields)?;
    let adapter = params::model(&app, &fields)?;
    let mut asked = params::asked(&app, &fields, &["max_tokens", "max_completion_tokens"], None)?;
    // A chat template writes the special tokens itself.
    let (text, role) = (prompt.text.clone(), prompt.role);
    let (tokens, shown) = prompt.tokens(&app, &fields)?;
    asked.pictures = shown;
    if let Some(count) = logprobs {
        asked.sampling.top_logprobs = Some(params::top_logprobs(&app, count)?);
    }
    let (tokens, max_tokens) = params::fit(&app, tokens, &asked)?;
    room(&app, asked.n)?;
    let (id, created, served) = (identity("chatcmpl"), super::models::unix_s(), served(&app, &fields));
    let replies: Vec<_> = (0..asked.n).map(|index| start(&app, tokens.clone(), max_tokens, &asked, index, adapter.clone())).collect();
    if asked.stream {
        let head = json!({ "id": id, "object": "chat.completion.chunk", "created": created, "model": served });
        return Ok(streamed(app, replies, tokens, asked, role, head));
    }
    let (mut choices, mut sampled, mut prompt_scores) = (vec![], 0, Value::Null);
    for (index, events) in replies.into_iter().enumerate() {
        let reply = collect(events).await?;
        sampled += reply.tokens.len();
        if asked.sampling.prompt_logprobs.is_some() {
            prompt_scores = prompt_logprobs(&app, &reply.done);
        }
        choices.push(choice(&app, index, &reply, &asked, role));
    }
    let return_text = fields.flag("return_prompt_text", false)?;
    Ok(Json(json!({
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": served,
        "choices": choices,
        "service_tier": null,
        "system_fingerprint": null,
        "usage": usage(tokens.len(), sampled),
        "prompt_logprobs": prompt_scores,
        "prompt_token_ids": asked.return_token_ids.then_some(&tokens),
        "prompt_text": return_text.then_some(&text),
        "kv_transfer_params": null,
        "ec_transfer_params": null,
        "metrics": null,
    }))
    .into_response())
}

/// How many best ids, where log-probabilities are asked for.
fn logprobs_asked(fields: &Fields<'_>) -> Result<Option<i64>, ApiError> {
    let wanted = fields.flag("logprobs", false)?;
    let top = fields.int("top_logprobs")?;
    if let Some(top) = top {
        params::check_logprobs("top_logprobs", top)?;
        if top != 0 && !wanted {
            let message = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)";
            return Err(ApiError::param("top_logprobs", message));
        }
    }
    Ok(wanted.then(|| top.unwrap_or(0)))
}

/// A chat as its template puts it.
pub(crate) struct Prompt {
    /// With a mark in the place of each picture.
    pub(crate) text: String,
    /// The role that answers.
    pub(crate) role: &'static str,
    pub(crate) pictures: Vec<policy::Picture>,
}

impl Prompt {
    /// Its token ids, and the pictures at their places in them.
    pub(crate) fn tokens(self, app: &App, fields: &Fields<'_>) -> Result<(Vec<u32>, Vec<policy::Shown>), ApiError> {
        match &app.text.eyes {
            Some(eyes) if !self.pictures.is_empty() => eyes.place(&app.text, &self.text, self.pictures),
            _ => Ok((app.text.encode(&self.text, fields.flag("add_special_tokens", false)?)?, vec![])),
        }
    }
}

/// Reads a chat's messages.
pub(crate) fn prompt(app: &App, fields: &Fields<'_>) -> Result<Prompt, ApiError> {
    let messages = fields.get("messages").ok_or_else(|| fields.wrong("messages", "Field required"))?;
    let messages = messages.as_array().ok_or_else(|| fields.wrong("messages", "Input should be a valid list"))?;
    let (ask, go_on) = (fields.flag("add_generation_prompt", true)?, fields.flag("continue_final_message", false)?);
    if ask && go_on {
        return Err(ApiError::bad("Cannot set both `continue_final_message` and `add_generation_prompt` to True."));
    }
    let mut pictures = vec![];
    let messages: Vec<ChatMessage> =
        messages.iter().enumerate().map(|(at, message)| read_message(app, fields, at, message, &mut pictures)).collect::<Result<_, _>>()?;
    let Some(last) = messages.last() else {
        return Err(ApiError::bad("Cannot apply chat template to an empty conversation. Provide at least one message."));
    };
    let role = match last.role.as_str() {
        _ if ask => "assistant",
        "user" => "user",
        "system" => "system",
        _ => "assistant",
    };
    Ok(Prompt { text: app.text.render(&messages, ask, go_on)?, role, pictures })
}

/// Refuses text that would pass for a picture.
fn marked(app: &App, text: &str) -> Result<(), ApiError> {
    if app.text.eyes.is_some() { super::pictures::unmarked(text) } else { Ok(()) }
}

fn read_message(
    app: &App,
    fields: &Fields<'_>,
    at: usize,
    message: &Value,
    pictures: &mut Vec<policy::Picture>,
) -> Result<ChatMessage, ApiError> {
    let place = |rest: &str| format!("messages.{at}.ChatCompletionDeveloperMessageParam.{rest}");
    let role = message["role"].as_str().ok_or_else(|| fields.wrong(&place("role"), "Field required"))?;
    let text = match &message["content"] {
        Value::Null => String::new(),
        Value::String(text) => {
            marked(app, text)?;
            text.clone()
        }
        Value::Array(parts) => {
            let mut joined = String::new();
            let mut after_text = false;
            for part in parts {
                match (part["type"].as_str(), &app.text.eyes) {
                    (Some("text"), _) => {
                        let wrong = || fields.wrong(&place("content"), "Input should be a valid string");
                        let text = part["text"].as_str().ok_or_else(wrong)?;
                        marked(app, text)?;
                        if after_text {
                            joined.push('\n');
                        }
                        joined.push_str(text);
                    }
                    (Some("image_url"), Some(eyes)) => {
                        super::pictures::room(pictures.len())?;
                        joined.push_str(&super::pictures::mark(pictures.len()));
                        pictures.push(eyes.read(part)?);
                    }
                    (Some("image_url" | "audio_url" | "video_url" | "input_audio"), None) => {
                        return Err(ApiError::bad(format!("{} is not a multimodal model", app.names[0])));
                    }
                    (Some(kind @ ("audio_url" | "video_url" | "input_audio")), Some(_)) => {
                        return Err(ApiError::bad(format!("part type {kind} is not taken; allowed: text, image_url")));
                    }
                    _ => return Err(ApiError::bad(format!("Unknown part type: {}", part["type"]))),
                }
                after_text = part["type"] == "text";
            }
            joined
        }
        _ => return Err(fields.wrong(&place("content"), "Input should be a valid string")),
    };
    Ok(ChatMessage { role: role.to_string(), text })
}

fn choice(app: &App, index: usize, reply: &Reply, asked: &Asked, role: &str) -> Value {
    json!({
        "index": index,
        "message": { "role": role, "content": reply.text, "refusal": null, "annotations": null, "audio": null, "function_call": null,
            "reasoning": null },
        "logprobs": asked.sampling.top_logprobs.map(|count| content(app, &reply.tokens, asked, count)),
        "finish_reason": reply.done.reason,
        "stop_reason": stop_reason(&reply.done),
        "token_ids": asked.return_token_ids.then(|| reply.ids()),
        "routed_experts": null,
    })
}

fn content(app: &App, tokens: &[TokenLogprob], asked: &Asked, count: u32) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = app.text.token(id).into_bytes();
        json!({ "token": shown(app, id, asked), "logprob": finite(logprob), "bytes": bytes })
    };
    let entries = tokens.iter().map(|token| {
        let mut entry = one(token.id, token.logprob);
        entry["top_logprobs"] = ranked(token).into_iter().take(count as usize).map(|(id, logprob, _)| one(id, logprob)).collect();
        entry
    });
    json!({ "content": entries.collect::<Vec<_>>() })
}

fn streamed(
    app: Arc<App>,
    replies: Vec<tokio::sync::mpsc::UnboundedReceiver<Event>>,
    prompt: Vec<u32>,
    asked: Asked,
    role: &'static str,
    head: Value,
) -> Response {
    let with = |head: &Value, choices: Value, usage: Option<Value>| {
        let mut value = head.clone();
        value["choices"] = choices;
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        value
    };
    let first = (0..asked.n).map(|index| {
        let delta = json!({ "role": role, "content": "", "reasoning": null });
        let choice = json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null, "token_ids": null });
        let mut value = with(&head, json!([choice]), None);
        value["prompt_token_ids"] = if asked.return_token_ids { json!(prompt) } else { Value::Null };
        value
    });
    let first: Vec<Value> = first.collect();
    let (last_head, include_usage, read) = (head.clone(), asked.include_usage, prompt.len());
    let mut counts = vec![0; replies.len()];
    let chunk = move |app: &App, index: usize, event: Event| {
        counts[index] += event.tokens.len();
        if event.text.is_empty() && event.tokens.is_empty() && event.done.is_none() {
            return vec![];
        }
        let done = event.done.unwrap_or_else(|| Done { reason: "", ..Done::default() });
        let choice = json!({
            "index": index,
            "delta": { "content": event.text, "reasoning": null },
            "logprobs": asked.sampling.top_logprobs.map(|count| content(app, &event.tokens, &asked, count)),
            "finish_reason": if done.reason.is_empty() { Value::Null } else { json!(done.reason) },
            "stop_reason": stop_reason(&done),
            "token_ids": asked.return_token_ids.then(|| event.tokens.iter().map(|token| token.id).collect::<Vec<_>>()),
        });
        vec![with(&head, json!([choice]), asked.continuous_usage.then(|| usage(read, counts[index])))]
    };
    let last = move |counts: &[usize]| include_usage.then(|| with(&last_head, json!([]), Some(usage(read, counts.iter().sum()))));
    stream(app, replies, first, chunk, last)
}
