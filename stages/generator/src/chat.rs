//! Any server of OpenAI's chat completions, with a model of its own, in place of the policy: for evaluation.
//!
//! In: a segment's token ids. Done: they are read back as messages, which is what such a server takes; the sampling
//! parameters that differ from a server's defaults go along. Out: the reply's text in the pipeline's own token ids, cut at the
//! pipeline's own limit, with log-probabilities of 0: nobody trains on them. On failure: a server that is busy or away is asked
//! again until a deadline; one that refuses a prompt makes that prompt fail; one that does not know the model ends the stage.

use crate::engine::{Engine, Generated, Load, Request};
use crate::http_client::{Answer, Key, ask};
use crate::pending::Pending;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use context::{Context, Part};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a request may take, tries together.
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a server may take to say what it serves.
const HELLO: Duration = Duration::from_secs(30);

/// What to ask, and where.
#[derive(Clone, Debug)]
struct Server {
    url: String,
    model: String,
    key: Key,
}

/// See the module's text.
pub struct Chat {
    server: Arc<Server>,
    context: Arc<Context>,
    pending: Pending,
    /// A server that can answer nothing any more, and why.
    broken: Option<String>,
    started: Instant,
}

/// Marks a failure that every other request would meet too.
const FATAL: &str = "the server can answer nothing: ";

impl Chat {
    /// Takes a server up.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(url: &str, model: &str, key: Key, context: Arc<Context>) -> Result<Chat, String> {
        let model = check(url, model, &key)?;
        let server = Arc::new(Server { url: base(url).to_string(), model, key });
        Ok(Chat { server, context, pending: Pending::new(), broken: None, started: Instant::now() })
    }
}

/// A server's address without what people add to it.
fn base(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url)
}

/// The name of the model that is to be asked: the one that was named, or the only one there.
///
/// # Errors
/// One line: the server is not there, wants another key, is no such server, or does not serve that model.
pub fn check(url: &str, model: &str, key: &Key) -> Result<String, String> {
    let url = base(url);
    let answer = ask(&format!("{url}/v1/models"), None, key, HELLO)?;
    if matches!(answer.status, 401 | 403) {
        return Err(format!("{url} answers {}; {}", answer.status, key.hint()));
    }
    if answer.status != 200 {
        return Err(format!(
            "{url}/v1/models answers {}; hint: give the address of an OpenAI-compatible server, without a path",
            answer.status
        ));
    }
    let json = answer.json();
    let names: Vec<&str> = json["data"].as_array().into_iter().flatten().filter_map(|entry| entry["id"].as_str()).collect();
    match names[..] {
        _ if names.contains(&model) => Ok(model.to_string()),
        [] => Err(format!("{url}/v1/models lists no model; hint: is this an OpenAI-compatible server?")),
        [only] if model.is_empty() => Ok(only.to_string()),
        _ if model.is_empty() => Err(format!("{url} serves several models; hint: --model NAME, one of: {}", names.join(", "))),
        _ => Err(format!("{url} serves no model `{model}`; allowed: {}", names.join(", "))),
    }
}

fn body(server: &Server, context: &Context, request: &Request) -> Result<Value, String> {
    let said = context.messages(&request.tokens).map_err(|e| e.to_string())?;
    let mut pictures = request.pictures.iter();
    let mut messages = vec![];
    for message in said {
        let content = message.parts.into_iter().map(|part| match part {
            Part::Text(text) => Ok(json!({ "type": "text", "text": text })),
            Part::Picture => {
                let picture = pictures.next().ok_or("the prompt holds more pictures than came with it")?;
                Ok(json!({ "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{}", BASE64.encode(&picture.png)) } }))
            }
        });
        let content: Vec<Value> = content.collect::<Result<_, String>>()?;
        // Servers of text alone may know no lists.
        let text = || content.iter().map(|part| part["text"].as_str()).collect::<Option<String>>();
        let content = text().map_or_else(|| json!(content), |text| json!(text));
        messages.push(json!({ "role": message.role.as_str(), "content": content }));
    }
    let sampling = &request.sampling;
    let mut body = json!({
        "model": server.model,
        "messages": messages,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        // The field is signed in some servers.
        "seed": sampling.seed >> 1,
    });
    // Fields that OpenAI's own servers do not know go out only where they say something.
    if sampling.top_k > 0 {
        body["top_k"] = json!(sampling.top_k);
    }
    if sampling.min_p > 0.0 {
        body["min_p"] = json!(sampling.min_p);
    }
    if !sampling.stop.is_empty() {
        body["stop"] = json!(sampling.stop);
    }
    Ok(body)
}

/// A reply, or why there is none and whether another try makes sense.
fn read(answer: &Answer, key: &Key, context: &Context, request: &Request) -> Result<Generated, (bool, String)> {
    let json = answer.json();
    if answer.status != 200 {
        let error = &json["error"];
        let message = error["message"].as_str().or(error.as_str()).or(json["message"].as_str()).unwrap_or("no message");
        let reason = format!("the server answers {}: {message}", answer.status);
        return Err(match answer.status {
            401 | 403 => (false, format!("{FATAL}{reason}; {}", key.hint())),
            404 | 405 => (false, format!("{FATAL}{reason}")),
            status => (status >= 500 || status == 429, reason),
        });
    }
    let choice = &json["choices"][0];
    if !choice["message"].is_object() {
        return Err((false, format!("{FATAL}its answer holds no message")));
    }
    let text = choice["message"]["content"].as_str().unwrap_or_default();
    let mut cut = choice["finish_reason"] == "length";
    let mut tokens = if cut { context.tokenizer.encode_text(text) } else { context.reply_ids(text) };
    if tokens.is_empty() {
        tokens.push(context.template.end_of_turn());
    }
    let most = request.sampling.max_tokens as usize;
    cut |= tokens.len() > most;
    tokens.truncate(most);
    let versions = vec![(request.version, tokens.len() as u32)];
    Ok(Generated { ticket: request.ticket, logprobs: vec![0.0; tokens.len()], tokens, versions, cut, failed: None })
}

/// One request until its deadline.
fn run(server: &Server, context: &Context, request: &Request, body: &Value) -> Generated {
    let until = Instant::now() + DEADLINE;
    let mut last = String::new();
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let answer = ask(&format!("{}/v1/chat/completions", server.url), Some(body), &server.key, left);
        match answer.map_err(|reason| (true, reason)).and_then(|answer| read(&answer, &server.key, context, request)) {
            Ok(generated) => return generated,
            Err((again, reason)) => {
                tracing::warn!("{reason}");
                last = reason;
                if !again {
                    break;
                }
                std::thread::sleep(PAUSE.min(left));
            }
        }
    }
    Generated { ticket: request.ticket, failed: Some(last), ..Generated::default() }
}

impl Engine for Chat {
    fn wants_weights(&self) -> bool {
        false
    }

    fn sees(&self) -> bool {
        true
    }

    fn looks(&self) -> bool {
        true
    }

    fn load(&mut self, _version: u64, _weights: Vec<u8>) -> Result<bool, String> {
        Ok(true)
    }

    fn drop_version(&mut self, _version: u64) {}

    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String> {
        let body = body(&self.server, &self.context, &request)?;
        let (server, context) = (self.server.clone(), self.context.clone());
        self.pending.start(move || run(&server, &context, &request, &body))?;
        Ok(None)
    }

    fn step(&mut self) -> Result<Vec<Generated>, String> {
        let done = self.pending.collect();
        let fatal = done.iter().filter_map(|reply| reply.failed.as_deref()).find(|reason| reason.starts_with(FATAL));
        self.broken = fatal.map(str::to_string).or(self.broken.take());
        match &self.broken {
            Some(reason) => Err(format!("{}: {reason}", self.server.url)),
            None => Ok(done),
        }
    }

    fn has_work(&self) -> bool {
        self.pending.running() > 0
    }

    fn forget(&mut self, _rollout: u64) {}

    fn load_now(&self) -> Load {
        Load { running: self.pending.running() as u64, kv_used_mib: 0.0, computing_s: self.started.elapsed().as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Settings;
    use crate::http::tests::{Server as Http, folder};
    use schemas::{Sampling, SegmentHead};

    fn served() -> (tempfile::TempDir, Http, Arc<Context>) {
        let home = tempfile::tempdir().unwrap();
        folder(home.path(), 1);
        let settings =
            Settings { names: vec!["m".into()], threads: 1, kv_cache_mib: 8, max_model_len: Some(512), ..Settings::of(home.path()) };
        let server = Http::start(&settings);
        let file = |name: &str| std::fs::read(home.path().join(name)).unwrap();
        let context =
            Context::from_files(&file("tokenizer.json"), &file("tokenizer_config.json"), context::ImageSettings::default()).unwrap();
        (home, server, Arc::new(context))
    }

    fn request(context: &Context, ticket: u64) -> Request {
        let mut segment = context.open(&SegmentHead { system: "Go to the cup.".into(), ..SegmentHead::default() }, 0).unwrap();
        context.push_turn(&mut segment, "the cup 3 stands on the table", &[]).unwrap();
        let sampling = Sampling { max_tokens: 9, temperature: 0.0, ..Sampling::default() };
        Request {
            pictures: vec![],
            ticket,
            rollout: ticket,
            group: 0,
            tokens: segment.tokens.0,
            version: 0,
            sampling,
            stop_ids: context.tokenizer.stop_ids(),
        }
    }

    #[test]
    fn a_conversation_goes_out_and_its_reply_comes_back_in_own_tokens() {
        let (_home, server, context) = served();
        let mut engine = Chat::new(&format!("{}/v1/", server.url), "", Key::default(), context.clone()).unwrap();
        (0..3).for_each(|ticket| assert_eq!(engine.submit(request(&context, ticket)), Ok(None)));
        let mut done = vec![];
        while engine.has_work() {
            done.extend(engine.step().unwrap());
        }
        assert_eq!(done.len(), 3);
        let told = json!({ "model": "m", "messages": [{ "role": "system", "content": "Go to the cup." },
            { "role": "user", "content": "the cup 3 stands on the table" }], "max_tokens": 9, "temperature": 0 });
        let said = ask(&format!("{}/v1/chat/completions", server.url), Some(&told), &Key::default(), HELLO).unwrap().json();
        let text = said["choices"][0]["message"]["content"].as_str().unwrap();
        for reply in done {
            let ids = context.tokenizer.encode_text(text);
            assert_eq!((reply.failed, &reply.tokens[..]), (None, &ids[..ids.len().min(9)]), "{text:?}");
            assert_eq!((reply.logprobs.len(), reply.versions), (reply.tokens.len(), vec![(0, reply.tokens.len() as u32)]));
        }
    }

    #[test]
    fn pictures_go_along_where_they_stand() {
        let (_home, server, context) = served();
        let frame = crate::pictures::tests::frame(40, 84, 56);
        let mut segment = context.open(&SegmentHead::default(), 0).unwrap();
        context.push_turn(&mut segment, "ahead <image> and no more", std::slice::from_ref(&frame)).unwrap();
        let mut album = crate::pictures::Album::default();
        let seen = album.find(&context.images, &segment.images, std::slice::from_ref(&frame)).unwrap();
        let crate::pictures::Found::All(pictures) = seen else { panic!("the picture came along") };
        let asked = Request { tokens: segment.tokens.0.clone(), pictures, ..request(&context, 1) };
        let engine = Chat::new(&server.url, "", Key::default(), context.clone()).unwrap();
        let body = body(&engine.server, &context, &asked).unwrap();
        let content = &body["messages"][0]["content"];
        let url = content[1]["image_url"]["url"].as_str().unwrap();
        assert_eq!((content[0]["text"].as_str(), content[2]["text"].as_str()), (Some("ahead "), Some(" and no more")));
        assert_eq!(BASE64.decode(url.strip_prefix("data:image/png;base64,").unwrap()).unwrap(), frame.png);
        let short = Request { pictures: vec![], ..asked };
        assert!(super::body(&engine.server, &context, &short).unwrap_err().contains("more pictures than came"));
    }

    #[test]
    fn bad_servers_are_one_clear_line() {
        let (_home, server, context) = served();
        let refused = |url: &str, model: &str| Chat::new(url, model, Key::default(), context.clone()).err().unwrap();
        assert!(refused(&server.url, "nobody").contains("serves no model `nobody`; allowed: m"));
        assert!(refused(&format!("{}/nowhere", server.url), "m").contains("/nowhere/v1/models answers 404; hint"));
        assert!(refused("http://127.0.0.1:1", "m").contains("http://127.0.0.1:1/v1/models: "));
        assert!(refused("ftp://host", "m").contains("begins with http:// or https://"));
        // A server that forgets its model in the middle ends the stage.
        let mut engine = Chat::new(&server.url, "m", Key::default(), context.clone()).unwrap();
        engine.server = Arc::new(Server { url: server.url.clone(), model: "gone".into(), key: Key::default() });
        engine.submit(request(&context, 1)).unwrap();
        let broken = loop {
            if let Err(reason) = engine.step() {
                break reason;
            }
        };
        assert!(broken.contains("answers 404") && broken.lines().count() == 1, "{broken}");
    }
    #[test]
    fn a_server_that_wants_a_key_gets_it_and_only_it() {
        let home = tempfile::tempdir().unwrap();
        folder(home.path(), 1);
        let keys = vec!["sk-one".to_string(), "sk-two".to_string()];
        let settings = Settings { names: vec!["m".into()], threads: 1, kv_cache_mib: 8, api_keys: keys, ..Settings::of(home.path()) };
        let server = Http::start(&settings);
        let key = |value: &str| Key::new("MY_KEY", value).unwrap();
        for value in ["sk-one", "sk-two"] {
            assert_eq!(check(&server.url, "", &key(value)), Ok("m".into()));
        }
        let refused = |value: &str| check(&server.url, "", &key(value)).unwrap_err();
        assert!(refused("").ends_with("answers 401; hint: set the environment variable MY_KEY to the server's API key, or name another one by --api-key-env or `generator.api_key_env`"), "{}", refused(""));
        assert!(refused("sk-three").contains("MY_KEY is not the server's") && !refused("sk-three").contains("sk-three"));
        // What vLLM guards, and what it leaves open.
        let ask = |path: &str, key: &Key| ask(&format!("{}{path}", server.url), None, key, HELLO).unwrap();
        let answer = ask("/v1/models", &key("wrong"));
        assert_eq!((answer.status, answer.json()), (401, json!({ "error": "Unauthorized" })));
        assert_eq!(ask("/v1/nowhere", &key("")).status, 401);
        for open in ["/health", "/metrics", "/version"] {
            assert_eq!(ask(open, &key("")).status, 200, "{open}");
        }
    }
}
