//! What RL frameworks call: pausing, weights, adapters.
//!
//! Weights come from a folder or a file that this host can read. They are read and made ready beside the thread that
//! computes, checked to be finite numbers, and taken in between two passes: that is all the time that replies stand still.

use super::core::{Command, PauseMode};
use super::params::{Body, Fields};
use super::{ApiError, App};
use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tokio::sync::{Mutex, oneshot};

/// What is known about the weights' side of things.
pub(crate) struct Control {
    pub(crate) folder: PathBuf,
    /// One change of weights at a time.
    busy: Mutex<()>,
}

impl Control {
    pub(crate) fn new(folder: PathBuf) -> Control {
        Control { folder, busy: Mutex::new(()) }
    }
}

impl App {
    /// Adapters by name, with their folders.
    pub(crate) fn adapters(&self) -> BTreeMap<String, String> {
        self.core.adapters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn weight_version(&self) -> String {
        self.core.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_weight_version(&self, name: &str) {
        *self.core.version.lock().unwrap_or_else(PoisonError::into_inner) = name.to_string();
    }
}

fn dead() -> ApiError {
    ApiError::internal("the engine is gone; hint: see the log and start the server again")
}

pub(crate) async fn pause(State(app): State<Arc<App>>, Query(query): Query<BTreeMap<String, String>>) -> Result<Json<Value>, ApiError> {
    let mode = match query.get("mode").map(String::as_str) {
        None | Some("abort") => PauseMode::Abort,
        Some("wait") => PauseMode::Wait,
        Some("keep") => PauseMode::Keep,
        Some(other) => return Err(ApiError::bad(format!("Invalid pause mode: {other}; allowed: abort, wait, keep"))),
    };
    let clear = query.get("clear_cache").is_none_or(|value| value != "false");
    let (done, paused) = oneshot::channel();
    app.core.send(Command::Pause { mode, clear, done });
    paused.await.map_err(|_| dead())?;
    Ok(Json(json!({ "status": "paused" })))
}

pub(crate) async fn resume(State(app): State<Arc<App>>) -> Json<Value> {
    app.core.send(Command::Resume);
    Json(json!({ "status": "resumed" }))
}

pub(crate) async fn is_paused(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "is_paused": app.core.paused.load(Ordering::SeqCst) }))
}

pub(crate) async fn abort_requests(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let (done, aborted) = oneshot::channel();
    app.core.send(Command::Abort { done });
    Ok(Json(json!({ "status": "aborted", "aborted": aborted.await.map_err(|_| dead())? })))
}

pub(crate) async fn reset_prefix_cache(State(app): State<Arc<App>>) -> Json<Value> {
    app.core.send(Command::ClearCache);
    Json(json!({ "success": true }))
}

pub(crate) async fn weight_info(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "weight_version": app.weight_version() }))
}

pub(crate) async fn update_weight_version(State(app): State<Arc<App>>, Body(map): Body) -> Result<Json<Value>, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let name = fields.text("new_version")?.ok_or_else(|| fields.wrong("new_version", "Field required"))?;
    app.set_weight_version(name);
    app.core.send(Command::Rename { name: name.to_string() });
    Ok(Json(json!({ "success": true, "new_version": name })))
}

pub(crate) async fn init() -> Json<Value> {
    Json(json!({ "message": "Weight transfer initialized" }))
}

pub(crate) async fn start() -> Json<Value> {
    Json(json!({ "message": "Weight update started" }))
}

/// `{"update_info": {"path": FOLDER, "weight_version": NAME}}`.
pub(crate) async fn update(State(app): State<Arc<App>>, Body(map): Body) -> Result<Json<Value>, ApiError> {
    let info = map.get("update_info").ok_or_else(|| ApiError::bad("Missing 'update_info' in request body"))?;
    let path = info["path"].as_str().ok_or_else(|| {
        ApiError::bad("`update_info` lacks `path`; this server takes weights from a folder or a safetensors file that it can read")
    })?;
    let name = info["weight_version"].as_str();
    let (seconds, pause) = take_weights(&app, PathBuf::from(path), name).await?;
    Ok(Json(json!({ "message": "Weights updated", "seconds": seconds, "pause_seconds": pause })))
}

/// The body may be empty, or name the version.
pub(crate) async fn finish(State(app): State<Arc<App>>, body: axum::body::Bytes) -> Json<Value> {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(name) = body["weight_version"].as_str() {
        app.set_weight_version(name);
        app.core.send(Command::Rename { name: name.to_string() });
    }
    Json(json!({ "message": "Weight update finished" }))
}

/// vLLM's way to read weights again from a folder: `{"method": "reload_weights", "kwargs": {"weights_path": FOLDER}}`.
pub(crate) async fn collective_rpc(State(app): State<Arc<App>>, Body(map): Body) -> Result<Json<Value>, ApiError> {
    let method = map.get("method").and_then(Value::as_str).ok_or_else(|| ApiError::bad("Missing 'method' in request body"))?;
    if method != "reload_weights" {
        return Err(ApiError::bad(format!("method `{method}` is not known; allowed: reload_weights")));
    }
    let path = map.get("kwargs").and_then(|kwargs| kwargs["weights_path"].as_str());
    let path = path.map_or_else(|| app.control.folder.clone(), PathBuf::from);
    take_weights(&app, path, None).await?;
    Ok(Json(json!({ "results": [null] })))
}

/// Makes weights ready and hands them over; gives the seconds of the whole, and those that replies stood still.
async fn take_weights(app: &Arc<App>, path: PathBuf, name: Option<&str>) -> Result<(f64, f64), ApiError> {
    let _one = app.control.busy.lock().await;
    let started = Instant::now();
    let loader = app.core.loader.clone();
    let place = path.display().to_string();
    let prepared = tokio::task::spawn_blocking(move || {
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            return loader.prepare(&bytes).map_err(|e| e.to_string());
        }
        loader.prepare_folder(&path).map_err(|e| e.to_string())
    })
    .await
    .map_err(|e| ApiError::internal(e.to_string()))?
    .map_err(|reason| ApiError::bad(format!("weights are refused: {reason}")))?;
    let name = name.map_or_else(|| place, str::to_string);
    let (done, installed) = oneshot::channel();
    app.core.send(Command::Install { adapter: None, name: name.clone(), prepared, done });
    let installed = installed.await.map_err(|_| dead())?;
    app.set_weight_version(&name);
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(version = name, seconds, pause_seconds = installed.pause_s, "weights taken in");
    Ok((seconds, installed.pause_s))
}

pub(crate) async fn load_lora(State(app): State<Arc<App>>, Body(map): Body) -> Result<String, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let (name, path) = (fields.text("lora_name")?.unwrap_or_default(), fields.text("lora_path")?.unwrap_or_default());
    if name.is_empty() || path.is_empty() {
        return Err(ApiError::bad("Both 'lora_name' and 'lora_path' must be provided."));
    }
    if app.adapters().contains_key(name) && !fields.flag("load_inplace", false)? {
        return Err(ApiError::bad(format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
        )));
    }
    let _one = app.control.busy.lock().await;
    let (loader, base, folder) = (app.core.loader.clone(), app.control.folder.clone(), PathBuf::from(path));
    let prepared = tokio::task::spawn_blocking(move || loader.prepare_adapter(&base, &folder))
        .await
        .map_err(|e| ApiError::internal(e.to_string()))?
        .map_err(|reason| match reason {
            policy::Error::Io { .. } => ApiError::not_found(format!("No adapter found for {path}: {reason}")),
            other => ApiError::bad(other.to_string()),
        })?;
    let (done, installed) = oneshot::channel();
    app.core.send(Command::Install { adapter: Some(name.to_string()), name: name.to_string(), prepared, done });
    installed.await.map_err(|_| dead())?;
    app.core.adapters.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_string(), path.to_string());
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

pub(crate) async fn unload_lora(State(app): State<Arc<App>>, Body(map): Body) -> Result<String, ApiError> {
    let fields = Fields { map: &map, at: "body" };
    let name = fields.text("lora_name")?.unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad("'lora_name' needs to be provided to unload a LoRA adapter."));
    }
    let known = app.core.adapters.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    if known.is_none() {
        return Err(ApiError::not_found(format!("The lora adapter '{name}' cannot be found.")));
    }
    let (done, gone) = oneshot::channel();
    app.core.send(Command::Unload { adapter: name.to_string(), done });
    gone.await.map_err(|_| dead())?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}
