//! `generator --http`: the policy behind vLLM's HTTP interface, for any OpenAI client and for other frameworks.
//!
//! In: a model folder and requests. Out: replies with vLLM's fields, errors with vLLM's shape. One thread computes
//! ([`core`]); handlers check a request ([`params`]), turn it into tokens ([`text`]), hand it over and write what comes back.
//! A client that goes away takes its request with it; what a slow one has not read yet is bounded by its own token limit.

mod auth;
mod chat;
mod completions;
mod control;
pub mod core;
mod error;
mod generate;
mod metrics;
mod models;
mod params;
mod pictures;
mod reply;
mod text;

pub use core::{Core, Settings};
pub use error::ApiError;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use std::sync::Arc;

/// The largest body that is read, bytes.
const BODY: usize = 32 << 20;

/// What every handler sees.
pub struct App {
    pub(crate) core: Core,
    pub(crate) text: text::Text,
    /// Names that requests may give, the folder's own first.
    pub(crate) names: Vec<String>,
    pub(crate) started: u64,
    pub(crate) control: control::Control,
    keys: auth::Keys,
}

impl App {
    /// Loads a model folder and starts the thread that computes.
    ///
    /// # Errors
    /// One line that says what is wrong with the folder or the settings.
    pub fn open(settings: &Settings) -> Result<Arc<App>, String> {
        let text = text::Text::open(&settings.folder)?;
        let core = Core::start(settings, &text)?;
        let names = match &settings.names[..] {
            [] => vec![settings.folder.display().to_string()],
            names => names.to_vec(),
        };
        let control = control::Control::new(settings.folder.clone());
        let keys = auth::Keys::new(&settings.api_keys);
        Ok(Arc::new(App { core, text, names, started: models::unix_s(), control, keys }))
    }
}

/// Every route.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(models::health))
        .route("/ping", get(models::health).post(models::health))
        .route("/version", get(models::version))
        .route("/load", get(models::load))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/models", get(models::models))
        .route("/tokenize", post(models::tokenize))
        .route("/detokenize", post(models::detokenize))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/inference/v1/generate", post(generate::generate))
        .route("/pause", post(control::pause))
        .route("/resume", post(control::resume))
        .route("/is_paused", get(control::is_paused))
        .route("/abort_requests", post(control::abort_requests))
        .route("/reset_prefix_cache", post(control::reset_prefix_cache))
        .route("/weight_info", get(control::weight_info))
        .route("/update_weight_version", post(control::update_weight_version))
        .route("/init_weight_transfer_engine", post(control::init))
        .route("/start_weight_update", post(control::start))
        .route("/update_weights", post(control::update))
        .route("/finish_weight_update", post(control::finish))
        .route("/collective_rpc", post(control::collective_rpc))
        .route("/server_info", get(models::server_info))
        .route("/v1/load_lora_adapter", post(control::load_lora))
        .route("/v1/unload_lora_adapter", post(control::unload_lora))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::not_allowed)
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::from_fn_with_state(app.clone(), auth::guard))
        .with_state(app)
}

/// Serves until the process is asked to end.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(address: &str, app: Arc<App>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!("serving on http://{}", listener.local_addr()?);
    axum::serve(listener, router(app)).with_graceful_shutdown(kit_signal()).await
}

/// An interrupt or a termination.
async fn kit_signal() {
    let interrupt = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(interrupt.await),
    }
}

#[cfg(test)]
pub(crate) mod tests;
