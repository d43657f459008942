//! Errors as vLLM writes them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error that a client sees: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: u16,
    pub kind: &'static str,
    pub message: String,
    pub param: Option<String>,
}

impl ApiError {
    /// A request that can never be answered.
    pub fn bad(message: impl Into<String>) -> ApiError {
        ApiError { status: 400, kind: "BadRequestError", message: message.into(), param: None }
    }

    /// The same, by the field that is at fault.
    pub fn param(param: &str, message: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.to_string()), ..ApiError::bad(message) }
    }

    /// A field of the wrong type, which vLLM's schema refuses before anything else looks at it.
    pub fn schema(param: &str, message: impl Into<String>) -> ApiError {
        ApiError { kind: "Bad Request", ..ApiError::param(param, message) }
    }

    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError { status: 404, kind: "NotFoundError", message: message.into(), param: None }
    }

    /// The engine or its weights are at fault.
    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError { status: 500, kind: "InternalServerError", message: message.into(), param: None }
    }

    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError { status: 503, kind: "ServiceUnavailableError", message: message.into(), param: None }
    }

    pub fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.status } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.body())).into_response()
    }
}

/// No such route. The framework under vLLM answers before vLLM does, in its own shape.
pub(crate) async fn not_found() -> (StatusCode, Json<Value>) {
    (StatusCode::NOT_FOUND, Json(json!({ "detail": "Not Found" })))
}

/// A route, but not by this method.
pub(crate) async fn not_allowed() -> (StatusCode, Json<Value>) {
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({ "detail": "Method Not Allowed" })))
}
