//! What is served, whether it lives, and text to tokens and back.

use super::chat::prompt;
use super::params::{self, Body, Fields};
use super::{ApiError, App};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// 200 while the thread that computes lives, 503 after.
pub(crate) async fn health(State(app): State<Arc<App>>) -> StatusCode {
    if app.core.dead.load(Ordering::SeqCst) { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

pub(crate) async fn load(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "server_load": app.core.in_hand() }))
}

/// What a client that drives this server has to know about how it samples.
pub(crate) async fn server_info(State(app): State<Arc<App>>) -> Json<Value> {
    let mode = match app.core.mode {
        policy::LogprobsMode::Raw => "raw_logprobs",
        _ => "processed_logprobs",
    };
    Json(
        json!({ "vllm_config": { "model_config": { "logprobs_mode": mode, "generation_config": "vllm", "max_model_len": app.core.longest } } }),
    )
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let entry = |id: &str, root: &str, parent: Option<&str>| {
        json!({ "id": id, "object": "model", "created": app.started, "owned_by": "errand", "root": root, "parent": parent,
            "max_model_len": app.core.longest, "permission": [] })
    };
    let root = app.control.folder.display().to_string();
    let mut data: Vec<Value> = app.names.iter().map(|name| entry(name, &root, None)).collect();
    data.extend(app.adapters().iter().map(|(name, path)| entry(name, path, Some(&app.names[0]))));
    Json(json!({ "object": "list", "data": data }))
}

pub(crate) async fn tokenize(State(app): State<Arc<App>>, Body(map): Body) -> Result<Json<Value>, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    params::model(&app, &fields)?;
    let tokens = match (fields.text("prompt")?, fields.get("messages")) {
        (Some(text), _) => app.text.encode(text, fields.flag("add_special_tokens", true)?)?,
        (None, Some(_)) => prompt(&app, &fields)?.tokens(&app, &fields)?.0,
        (None, None) => return Err(fields.wrong("prompt", "Field required")),
    };
    let strings = fields.flag("return_token_strs", false)?.then(|| tokens.iter().map(|id| app.text.spelling(*id)).collect::<Vec<_>>());
    Ok(Json(json!({ "count": tokens.len(), "max_model_len": app.core.longest, "tokens": tokens, "token_strs": strings })))
}

pub(crate) async fn detokenize(State(app): State<Arc<App>>, Body(map): Body) -> Result<Json<Value>, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    params::model(&app, &fields)?;
    fields.get("tokens").ok_or_else(|| fields.wrong("tokens", "Field required"))?;
    let mut ids = vec![];
    for (at, id) in fields.ids("tokens")?.into_iter().enumerate() {
        ids.push(u32::try_from(id).map_err(|_| fields.wrong(&format!("tokens.{at}"), "Input should be greater than or equal to 0"))?);
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= app.text.vocabulary) {
        return Err(ApiError::bad(format!("Token id {id} is out of vocabulary")));
    }
    Ok(Json(json!({ "prompt": app.text.decode(&ids, false) })))
}
