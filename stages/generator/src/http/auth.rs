//! API keys, as vLLM asks for them: routes under `/v1` take `Authorization: Bearer KEY`, all others are open.

use super::App;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

/// What begins with this is guarded.
const GUARDED: &str = "/v1";

/// Digests of the keys that open a server; without any it is open.
pub(crate) struct Keys(Vec<blake3::Hash>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().filter(|key| !key.is_empty()).map(|key| blake3::hash(key.as_bytes())).collect())
    }

    /// Whether a request may pass. Digests are compared in a time that says nothing of where they differ.
    fn open(&self, authorization: Option<&[u8]>) -> bool {
        let Some(said) = authorization else { return false };
        let Some(space) = said.iter().position(|byte| *byte == b' ') else { return false };
        let key = blake3::hash(&said[space + 1..]);
        said[..space].eq_ignore_ascii_case(b"bearer") && self.0.iter().fold(false, |open, known| open | (*known == key))
    }
}

/// Lets a request through, or answers 401 with vLLM's body.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let guarded = !app.keys.0.is_empty() && request.method() != Method::OPTIONS && request.uri().path().starts_with(GUARDED);
    if guarded && !app.keys.open(request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes())) {
        return (StatusCode::UNAUTHORIZED, Json(json!({ "error": "Unauthorized" }))).into_response();
    }
    next.run(request).await
}
