//! A request's fields, checked as vLLM checks them.

use super::{ApiError, App};
use axum::body::Bytes;
use axum::extract::FromRequest;
use axum::extract::Request as HttpRequest;
use policy::SamplingParams;
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU64, Ordering};

/// Most texts of `stop`.
const STOPS: usize = 4;
/// Most replies to one prompt.
const MOST_N: i64 = 16_384;
/// Longest `cache_salt`, characters.
const SALT: usize = 128;

/// A body that is a JSON object.
pub(crate) struct Body(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Body, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let status = rejection.status().as_u16();
            ApiError { status, kind: "BadRequestError", message: rejection.body_text(), param: None }
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Body(fields)),
            Ok(_) => Err(ApiError::schema("body", "1 validation error: body: expected an object")),
            Err(error) => Err(ApiError::schema("body.1", format!("1 validation error: body: JSON decode error: {error}"))),
        }
    }
}

/// Fields by name; what is null counts as not there.
pub(crate) struct Fields<'a> {
    pub(crate) map: &'a Map<String, Value>,
    /// Where they lie, for messages.
    pub(crate) at: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn wrong(&self, name: &str, what: &str) -> ApiError {
        let place = format!("{}.{name}", self.at);
        ApiError::schema(&place, format!("1 validation error: {place}: {what}"))
    }

    pub(crate) fn int(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.get(name).map(|value| integer(value).map_err(|what| self.wrong(name, what))).transpose()
    }

    pub(crate) fn float(&self, name: &str) -> Result<Option<f64>, ApiError> {
        let wrong = || self.wrong(name, "Input should be a valid number");
        self.get(name).map(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(wrong)).transpose()
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        let wrong = || self.wrong(name, "Input should be a valid boolean");
        self.get(name).map_or(Ok(default), |value| value.as_bool().ok_or_else(wrong))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| self.wrong(name, "Input should be a valid string"))).transpose()
    }

    /// One text or a list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, ApiError> {
        match self.get(name) {
            None => Ok(vec![]),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(all)) => {
                let text = |value: &Value| value.as_str().map(str::to_string);
                all.iter().map(text).collect::<Option<_>>().ok_or_else(|| self.wrong(name, "Input should be a valid string"))
            }
            Some(_) => Err(self.wrong(name, "Input should be a valid string")),
        }
    }

    /// A list of token ids.
    pub(crate) fn ids(&self, name: &str) -> Result<Vec<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(vec![]) };
        let all = value.as_array().ok_or_else(|| self.wrong(name, "Input should be a valid list"))?;
        let one = |(index, value): (usize, &Value)| integer(value).map_err(|what| self.wrong(&format!("{name}.{index}"), what));
        all.iter().enumerate().map(one).collect()
    }
}

/// An integer, or a number or text that is one.
pub(crate) fn integer(value: &Value) -> Result<i64, &'static str> {
    match value {
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(integer),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(float as i64),
            _ => Err("Input should be a valid integer, got a number with a fractional part"),
        },
        Value::String(text) => text.parse().map_err(|_| "Input should be a valid integer, unable to parse string as an integer"),
        _ => Err("Input should be a valid integer"),
    }
}

/// How replies are to be made.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) sampling: SamplingParams,
    /// Whether the request itself said how many tokens.
    pub(crate) max_tokens: Option<i64>,
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_ids: Vec<u32>,
    /// End-of-sequence ids that end a reply without being named.
    pub(crate) silent: Vec<u32>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) salt: u64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
    pub(crate) truncate: Option<i64>,
    /// What a chat shows.
    pub(crate) pictures: Vec<policy::Shown>,
}

/// Reads the fields that every route has. `max` is the route's own field for the token limit.
pub(crate) fn asked(app: &App, fields: &Fields<'_>, max: &[&str], default_max: Option<i64>) -> Result<Asked, ApiError> {
    let stream = fields.flag("stream", false)?;
    let mut include_usage = false;
    let mut continuous_usage = false;
    if let Some(options) = fields.get("stream_options") {
        if !stream {
            return Err(with_value("stream_options", "Stream options can only be defined when `stream=True`.", None));
        }
        include_usage = options["include_usage"].as_bool().unwrap_or(false);
        continuous_usage = options["continuous_usage_stats"].as_bool().unwrap_or(false);
    }
    let mut max_tokens = default_max;
    for name in max {
        max_tokens = fields.int(name)?.or(max_tokens);
    }
    let n = fields.int("n")?.unwrap_or(1);
    let sampling = sampling(app, fields, max_tokens)?;
    check_n(n, sampling.temperature)?;
    let stop = fields.texts("stop")?;
    if stop.len() > STOPS {
        return Err(fields.wrong("stop", &format!("List should have at most {STOPS} items after validation, not {}", stop.len())));
    }
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::bad("stop cannot contain an empty string."));
    }
    let named: Vec<u32> = fields.ids("stop_token_ids")?.into_iter().map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect();
    let eos: Vec<u32> = if fields.flag("ignore_eos", false)? { vec![] } else { app.text.eos.clone() };
    let silent = eos.iter().copied().filter(|id| !named.contains(id)).collect();
    Ok(Asked {
        sampling,
        max_tokens,
        n: n as usize,
        stop,
        stop_ids: named.iter().copied().chain(eos).collect(),
        silent,
        include_stop: fields.flag("include_stop_str_in_output", false)?,
        skip_special: fields.flag("skip_special_tokens", true)?,
        salt: salt(fields)?,
        stream,
        include_usage,
        continuous_usage,
        return_token_ids: fields.flag("return_token_ids", false)?,
        tokens_as_ids: fields.flag("return_tokens_as_token_ids", false)?,
        truncate: fields.int("truncate_prompt_tokens")?,
        pictures: vec![],
    })
}

fn check_n(n: i64, temperature: f32) -> Result<(), ApiError> {
    match n {
        ..=0 => Err(ApiError::bad(format!("n must be at least 1, got {n}."))),
        n if n > MOST_N => Err(ApiError::bad(format!(
            "n must be at most {MOST_N}, got {n}. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        ))),
        2.. if temperature == 0.0 => Err(ApiError::bad(format!("n must be 1 when using greedy sampling, got {n}."))),
        _ => Ok(()),
    }
}

/// vLLM's messages end with the parameter, and where there is one its value.
fn with_value(param: &str, message: &str, value: Option<String>) -> ApiError {
    let value = value.map(|value| format!(", value={value}")).unwrap_or_default();
    ApiError::param(param, format!("{message} (parameter={param}{value})"))
}

/// A number as Python prints a float.
fn python(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e16 { format!("{value:.1}") } else { value.to_string() }
}

fn sampling(app: &App, fields: &Fields<'_>, max_tokens: Option<i64>) -> Result<SamplingParams, ApiError> {
    let float = |name: &str, default: f64| fields.float(name).map(|value| value.unwrap_or(default));
    let presence = float("presence_penalty", 0.0)?;
    let frequency = float("frequency_penalty", 0.0)?;
    for (name, value) in [("presence_penalty", presence), ("frequency_penalty", frequency)] {
        if !(-2.0..=2.0).contains(&value) {
            return Err(ApiError::bad(format!("{name} must be in [-2, 2], got {}.", python(value))));
        }
    }
    let repetition = float("repetition_penalty", 1.0)?;
    if repetition <= 0.0 {
        return Err(ApiError::bad(format!("repetition_penalty must be greater than zero, got {}.", python(repetition))));
    }
    let temperature = float("temperature", 1.0)?;
    if temperature < 0.0 {
        let message = format!("temperature must be non-negative, got {}.", python(temperature));
        return Err(with_value("temperature", &message, Some(python(temperature))));
    }
    if temperature > 2.0 {
        let message = format!("temperature must be in [0, 2], got {}.", python(temperature));
        return Err(with_value("temperature", &message, Some(python(temperature))));
    }
    let top_p = float("top_p", 1.0)?;
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(with_value("top_p", &format!("top_p must be in (0, 1], got {}.", python(top_p)), Some(python(top_p))));
    }
    let top_k = fields.int("top_k")?.unwrap_or(0);
    if top_k < -1 {
        return Err(ApiError::bad(format!("top_k must be 0 (disable), or at least 1, got {top_k}.")));
    }
    let min_p = float("min_p", 0.0)?;
    if !(0.0..=1.0).contains(&min_p) {
        return Err(ApiError::bad(format!("min_p must be in [0, 1], got {}.", python(min_p))));
    }
    let min_tokens = fields.int("min_tokens")?.unwrap_or(0);
    check_limits(app, max_tokens, min_tokens)?;
    let bad_words = bad_words(app, fields)?;
    let mut sampling = SamplingParams {
        seed: fields.int("seed")?.map_or_else(fresh_seed, |seed| seed as u64),
        temperature: if temperature < 1e-5 { 0.0 } else { temperature as f32 },
        top_p: top_p as f32,
        top_k: top_k.max(0) as u32,
        min_p: min_p as f32,
        repetition_penalty: repetition as f32,
        frequency_penalty: frequency as f32,
        presence_penalty: presence as f32,
        logit_bias: logit_bias(app, fields)?,
        allowed: allowed(app, fields)?,
        bad_words,
        ban: false,
        min_tokens: min_tokens as u32,
        max_tokens: 1,
        top_logprobs: None,
        prompt_logprobs: None,
        logprobs_mode: app.core.mode,
    };
    sampling.prompt_logprobs = prompt_logprobs(app, fields)?;
    Ok(sampling)
}

fn check_limits(app: &App, max_tokens: Option<i64>, min_tokens: i64) -> Result<(), ApiError> {
    let longest = app.core.longest;
    if let Some(max) = max_tokens {
        if max > longest as i64 {
            let message = format!("max_tokens={max} cannot be greater than max_model_len={longest}. Please request fewer output tokens.");
            return Err(with_value("max_tokens", &message, Some(max.to_string())));
        }
        if max < 1 {
            return Err(with_value("max_tokens", &format!("max_tokens must be at least 1, got {max}."), Some(max.to_string())));
        }
    }
    if min_tokens < 0 {
        return Err(ApiError::bad(format!("min_tokens must be greater than or equal to 0, got {min_tokens}.")));
    }
    match max_tokens {
        Some(max) if min_tokens > max => {
            Err(ApiError::bad(format!("min_tokens must be less than or equal to max_tokens={max}, got {min_tokens}.")))
        }
        _ => Ok(()),
    }
}

fn logit_bias(app: &App, fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(vec![]) };
    let map = value.as_object().ok_or_else(|| fields.wrong("logit_bias", "Input should be a valid dictionary"))?;
    let mut bias = vec![];
    for (key, value) in map {
        let value = value.as_f64().ok_or_else(|| fields.wrong(&format!("logit_bias.{key}"), "Input should be a valid number"))?;
        let id: i64 = key.parse().map_err(|_| ApiError::param("logit_bias", format!("logit_bias key `{key}` is no token id")))?;
        let id = u32::try_from(id).ok().filter(|id| (*id as usize) < app.text.vocabulary).ok_or_else(|| {
            let size = app.text.vocabulary;
            let message = format!("token_id(s) [{id}] in logit_bias contain out-of-vocab token ids. Vocabulary size: {size}");
            with_value("logit_bias", &message, Some(format!("[{id}]")))
        })?;
        bias.push((id, value.clamp(-100.0, 100.0) as f32));
    }
    Ok(bias)
}

fn allowed(app: &App, fields: &Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = fields.ids("allowed_token_ids")?;
    if fields.get("allowed_token_ids").is_some() && ids.is_empty() {
        return Err(with_value("allowed_token_ids", "allowed_token_ids is not None and empty!", Some("[]".into())));
    }
    if ids.iter().any(|id| *id < 0 || *id as usize >= app.text.vocabulary) {
        return Err(with_value("allowed_token_ids", "allowed_token_ids contains out-of-vocab token id!", Some(format!("{ids:?}"))));
    }
    Ok(ids.into_iter().map(|id| id as u32).collect())
}

/// Each word as it is and after a space, as vLLM bans it.
fn bad_words(app: &App, fields: &Fields<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let words = fields.texts("bad_words")?;
    if words.iter().any(String::is_empty) {
        return Err(ApiError::bad(format!("bad_words cannot contain an empty string. Got bad_words={words:?}").replace('"', "'")));
    }
    let mut all: Vec<Vec<u32>> = vec![];
    for word in words {
        let word = word.trim_start();
        for text in [word.to_string(), format!(" {word}")] {
            let ids = app.text.encode(&text, false)?;
            if !ids.is_empty() && !all.contains(&ids) {
                all.push(ids);
            }
        }
    }
    Ok(all)
}

fn prompt_logprobs(app: &App, fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let Some(count) = fields.int("prompt_logprobs")? else { return Ok(None) };
    if fields.flag("stream", false)? && count != 0 {
        return Err(with_value("prompt_logprobs", "`prompt_logprobs` are not available when `stream=True`.", None));
    }
    if count < -1 {
        return Err(with_value("prompt_logprobs", "`prompt_logprobs` must be a positive value or -1.", Some(count.to_string())));
    }
    let count = if count == -1 { app.text.vocabulary as i64 } else { count };
    if count > i64::from(app.core.max_logprobs) {
        let message = format!("Requested prompt logprobs of {count}, which is greater than max allowed: {}", app.core.max_logprobs);
        return Err(with_value("prompt_logprobs", &message, Some(count.to_string())));
    }
    Ok(Some(count as u32))
}

/// How many best ids beside the sampled one.
pub(crate) fn top_logprobs(app: &App, count: i64) -> Result<u32, ApiError> {
    let count = if count == -1 { app.text.vocabulary as i64 } else { count };
    if count > i64::from(app.core.max_logprobs) {
        let message = format!("Requested sample logprobs of {count}, which is greater than max allowed: {}", app.core.max_logprobs);
        return Err(with_value("logprobs", &message, Some(count.to_string())));
    }
    Ok(count as u32)
}

/// Refuses a negative number that is not -1.
pub(crate) fn check_logprobs(param: &str, count: i64) -> Result<(), ApiError> {
    if count < -1 {
        return Err(with_value(param, &format!("`{param}` must be a positive value or -1."), Some(count.to_string())));
    }
    Ok(())
}

fn salt(fields: &Fields<'_>) -> Result<u64, ApiError> {
    let Some(text) = fields.text("cache_salt")? else { return Ok(0) };
    if text.is_empty() {
        return Err(with_value("cache_salt", "Parameter 'cache_salt' must be a non-empty string if provided.", None));
    }
    if text.chars().count() > SALT || text.contains(['@', '/', '\\', '\0']) {
        let message = format!("Parameter 'cache_salt' must be at most {SALT} characters and must not contain '@', '/', '\\\\', or NUL.");
        return Err(with_value("cache_salt", &message, None));
    }
    let digest = blake3::hash(text.as_bytes());
    Ok(u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes")) | 1)
}

/// A seed that was not there before.
fn fresh_seed() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let digest = blake3::hash(&[nanos.to_le_bytes(), COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes()].concat());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// The tokens of a prompt, cut where the request says so, and how many may be sampled.
pub(crate) fn fit(app: &App, mut tokens: Vec<u32>, asked: &Asked) -> Result<(Vec<u32>, u32), ApiError> {
    let longest = app.core.longest;
    if let Some(keep) = asked.truncate {
        let keep = if keep < 0 { longest } else { keep as usize };
        tokens.drain(..tokens.len().saturating_sub(keep));
    }
    if let Some(id) = tokens.iter().find(|id| **id as usize >= app.text.vocabulary) {
        return Err(ApiError::bad(format!("Token id {id} is out of vocabulary")));
    }
    if tokens.is_empty() {
        return Err(ApiError::bad("You must pass at least one prompt"));
    }
    if tokens.len() >= longest {
        let count = tokens.len();
        let message = format!(
            "This model's maximum context length is {longest} tokens. However, your prompt contains {count} input tokens, which exceeds \
             this limit even without any output tokens. Please reduce the length of the input prompt."
        );
        return Err(with_value("input_tokens", &message, Some(count.to_string())));
    }
    let room = longest - tokens.len();
    let max = asked.max_tokens.map_or(room, |max| (max as usize).min(room));
    Ok((tokens, max as u32))
}

/// Whether the model that is asked for is served here: `None` for the folder's own, else an adapter's name.
pub(crate) fn model(app: &App, fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    let Some(name) = fields.text("model")?.filter(|name| !name.is_empty()) else { return Ok(None) };
    if app.names.iter().any(|own| own == name) {
        return Ok(None);
    }
    if app.adapters().contains_key(name) {
        return Ok(Some(name.to_string()));
    }
    let message = format!("The model `{name}` does not exist. Valid aliases: {}.", app.names.join(", "));
    Err(ApiError { param: Some("model".into()), ..ApiError::not_found(message) })
}
