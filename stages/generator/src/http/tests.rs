//! The routes, on a small random policy, over a real socket.

use super::*;
use crate::http_client::{Answer, Key, ask};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// Writes a model folder whose weights come from a seed.
pub(crate) fn folder(path: &Path, seed: u64) {
    let lines: Vec<String> = (0..40).map(|i| format!("the cup {i} stands on the table near room {}", i % 7)).collect();
    let (tokenizer, settings) = context::train_small(&lines, &["Left".into(), "Right".into()], 320).unwrap();
    let context = context::Context::from_files(&tokenizer, &settings, context::ImageSettings::default()).unwrap();
    let policy = schemas::pipeline::PolicyConfig { hidden: 32, layers: 2, heads: 4, kv_heads: 2, intermediate: 48, ..Default::default() };
    let config = policy::ModelConfig::tiny(&policy, context.tokenizer.vocab_size()).unwrap();
    let weights = policy::Trainer::new(config.clone(), seed, policy::TrainerOptions::default()).unwrap().weights();
    write_folder(path, &tokenizer, &settings, &config.to_json(), &weights);
}

fn write_folder(path: &Path, tokenizer: &[u8], settings: &[u8], config: &str, weights: &[u8]) {
    let files: [(&str, &[u8]); 4] = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
        ("config.json", config.as_bytes()),
        ("model.safetensors", weights),
    ];
    std::fs::create_dir_all(path).unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(path.join(name), bytes).unwrap());
}

/// The same with eyes.
fn seeing_folder(path: &Path) {
    let lines: Vec<String> = (0..40).map(|i| format!("the cup {i} stands on the table near room {}", i % 7)).collect();
    let (tokenizer, settings) = context::train_small(&lines, &["Left".into()], 320).unwrap();
    let context = context::Context::from_files(&tokenizer, &settings, context::ImageSettings::default()).unwrap();
    let image = context.tokenizer.special_id(context::tokenizer::IMAGE_PAD).unwrap();
    let config = json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": image,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": context.tokenizer.vocab_size(), "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
        "tie_word_embeddings": true, "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [2, 1, 1] },
        "vision_config": { "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14,
            "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [1], "in_channels": 3,
            "out_hidden_size": 32 },
    });
    let config = policy::ModelConfig::from_json(config.to_string().as_bytes()).unwrap();
    let weights = policy::Trainer::new(config.clone(), 3, policy::TrainerOptions::default()).unwrap().weights();
    write_folder(path, &tokenizer, &settings, &config.to_json(), &weights);
    std::fs::write(path.join("preprocessor_config.json"), "{}").unwrap();
}

/// A server on a free port, as long as it is held.
pub(crate) struct Server {
    pub(crate) url: String,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(settings: &Settings) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let app = App::open(settings).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router(app)).await });
        Server { url, _runtime: runtime }
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        ask(&format!("{}{path}", self.url), Some(body), &Key::default(), Duration::from_secs(60)).unwrap()
    }

    fn get(&self, path: &str) -> Answer {
        ask(&format!("{}{path}", self.url), None, &Key::default(), Duration::from_secs(60)).unwrap()
    }

    /// The value of a counter or gauge.
    fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("vllm:{name}{{"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn settings(path: &Path) -> Settings {
    Settings { names: vec!["m".into()], threads: 1, kv_cache_mib: 8, max_model_len: Some(512), ..Settings::of(path) }
}

fn served() -> (tempfile::TempDir, Server) {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let server = Server::start(&settings(home.path()));
    (home, server)
}

fn completion(more: Value) -> Value {
    let mut body = json!({ "model": "m", "prompt": "the cup", "max_tokens": 8, "temperature": 0, "return_token_ids": true });
    more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

#[test]
fn the_same_tokens_come_back_by_every_route_and_streamed() {
    let (_home, server) = served();
    let whole = server.post("/v1/completions", &completion(json!({}))).json();
    let ids = whole["choices"][0]["token_ids"].clone();
    assert_eq!(ids.as_array().unwrap().len(), 8, "{whole}");
    assert_eq!(whole["usage"]["completion_tokens"], 8);
    let prompt = whole["choices"][0]["prompt_token_ids"].clone();
    let body = json!({ "token_ids": prompt, "sampling_params": { "max_tokens": 8, "temperature": 0, "logprobs": 1 } });
    let generated = server.post("/inference/v1/generate", &body).json();
    assert_eq!(generated["choices"][0]["token_ids"], ids);
    assert_eq!(generated["choices"][0]["weight_versions"], json!([{ "version": "default", "start": 0, "end": 8 }]));
    let streamed = server.post("/v1/completions", &completion(json!({ "stream": true, "stream_options": { "include_usage": true } })));
    let text = String::from_utf8(streamed.body).unwrap();
    let chunks: Vec<Value> = text.split("\n\n").filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(said, whole["choices"][0]["text"]);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 8);
    assert!(text.trim_end().ends_with("data: [DONE]"));
    let two = server.post("/v1/completions", &completion(json!({ "prompt": [prompt, prompt] }))).json();
    assert_eq!((&two["choices"][1]["token_ids"], &two["choices"][1]["index"]), (&ids, &json!(1)));
    let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "the cup" }], "max_tokens": 4 });
    assert_eq!(server.post("/v1/chat/completions", &chat).json()["choices"][0]["message"]["role"], "assistant");
    assert!(server.metric("generation_tokens_total") >= 8.0);
}

#[test]
fn a_stop_text_ends_a_reply_where_it_stands() {
    let (_home, server) = served();
    let whole = server.post("/v1/completions", &completion(json!({ "max_tokens": 24 }))).json();
    let text = whole["choices"][0]["text"].as_str().unwrap().to_string();
    let from = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[from..].chars().take(3).collect();
    let first = text.find(&stop).unwrap();
    for (kept, expected) in [(false, &text[..first]), (true, &text[..first + stop.len()])] {
        let body = completion(json!({ "max_tokens": 24, "stop": [stop], "include_stop_str_in_output": kept }));
        let cut = server.post("/v1/completions", &body).json();
        assert_eq!((cut["choices"][0]["text"].as_str().unwrap(), &cut["choices"][0]["stop_reason"]), (expected, &json!(stop)));
        assert_eq!(cut["choices"][0]["finish_reason"], "stop");
        assert!(cut["usage"]["completion_tokens"].as_u64() < Some(24));
    }
}

#[test]
fn bad_requests_get_vllms_errors_and_the_server_goes_on() {
    let (home, server) = served();
    let cases = [
        (json!({ "model": "nobody" }), 404, "NotFoundError", json!("model")),
        (json!({ "prompt": null }), 400, "BadRequestError", json!("prompt")),
        (json!({ "prompt": [1, 999_999] }), 400, "BadRequestError", Value::Null),
        (json!({ "prompt": vec![5; 600] }), 400, "BadRequestError", json!("input_tokens")),
        (json!({ "max_tokens": 513 }), 400, "BadRequestError", json!("max_tokens")),
        (json!({ "max_tokens": "many" }), 400, "Bad Request", json!("body.max_tokens")),
        (json!({ "temperature": -1 }), 400, "BadRequestError", json!("temperature")),
        (json!({ "n": 2 }), 400, "BadRequestError", Value::Null),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), 400, "Bad Request", json!("body.stop")),
        (json!({ "logprobs": 21 }), 400, "BadRequestError", json!("logprobs")),
        (json!({ "logit_bias": { "999999": 1 } }), 400, "BadRequestError", json!("logit_bias")),
    ];
    for (more, status, kind, param) in cases {
        let answer = server.post("/v1/completions", &completion(more.clone()));
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["type"], &error["param"]), (status, &json!(kind), &param), "{more}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(server.get("/v1/nowhere").status, 404);
    let huge = server.post("/v1/completions", &completion(json!({ "prompt": "x".repeat(BODY + 1) })));
    assert_eq!(huge.status, 413);
    std::fs::write(home.path().join("model.safetensors"), b"torn").unwrap();
    let torn = server.post("/collective_rpc", &json!({ "method": "reload_weights" }));
    assert_eq!(torn.status, 400, "a folder that was swapped for a broken one is refused");
    assert_eq!((server.get("/health").status, server.post("/v1/completions", &completion(json!({}))).status), (200, 200));
}

/// Changes the weights, as `version`, while a reply runs; whether the reply was still running. Then each token says which
/// weights it is of.
fn changed_in_mid_reply(server: &Server, next: &Path, version: u32) -> bool {
    let url = server.url.clone();
    let before = server.metric("generation_tokens_total");
    let long = std::thread::spawn(move || {
        let body =
            json!({ "token_ids": [5, 6, 7], "sampling_params": { "max_tokens": 400, "temperature": 1, "seed": 3, "ignore_eos": true } });
        ask(&format!("{url}/inference/v1/generate"), Some(&body), &Key::default(), Duration::from_secs(60)).unwrap().json()
    });
    while server.metric("generation_tokens_total") < before + 20.0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.post("/pause?mode=keep", &json!({})).json()["status"], "paused");
    assert_eq!(server.get("/is_paused").json()["is_paused"], true);
    let body = json!({ "method": "reload_weights", "kwargs": { "weights_path": next } });
    assert_eq!(server.post("/collective_rpc", &body).status, 200);
    server.post("/update_weight_version", &json!({ "new_version": version.to_string() }));
    server.post("/resume", &json!({}));
    assert_eq!(server.get("/weight_info").json()["weight_version"], version.to_string());
    let reply = long.join().unwrap();
    let spans = reply["choices"][0]["weight_versions"].as_array().unwrap();
    if spans.len() < 2 {
        return false;
    }
    let first = if version == 1 { "default".to_string() } else { (version - 1).to_string() };
    assert_eq!(
        (spans.len(), &spans[0]["version"], &spans[1]["version"], &spans[1]["end"]),
        (2, &json!(first), &json!(version.to_string()), &json!(400))
    );
    true
}

#[test]
fn weights_change_while_replies_run_and_each_token_says_which() {
    let (home, server) = served();
    let next = home.path().join("next");
    folder(&next, 2);
    // A reply can be over before the pause arrives; then the next one is caught.
    let caught = (1..=30).find(|version| changed_in_mid_reply(&server, &next, *version));
    assert!(caught.is_some(), "no reply of 30 had weights changed in its middle");
    // What comes after is computed with the new weights alone.
    let fresh = Server::start(&settings(&next));
    let ask_both = |server: &Server| {
        server.post("/v1/completions", &completion(json!({ "prompt": [9, 8, 7] }))).json()["choices"][0]["token_ids"].clone()
    };
    assert_eq!(ask_both(&server), ask_both(&fresh));
}

#[test]
fn a_client_that_goes_away_takes_its_request_with_it() {
    let (_home, server) = served();
    let address = server.url.strip_prefix("http://").unwrap().to_string();
    for stream in [true, false] {
        let body = completion(json!({ "max_tokens": 480, "stream": stream, "ignore_eos": true })).to_string();
        let mut socket = std::net::TcpStream::connect(&address).unwrap();
        write!(
            socket,
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        if stream {
            let mut some = [0; 64];
            assert!(socket.read(&mut some).unwrap() > 0);
        }
        drop(socket);
    }
    let mut left = 1.0;
    for _ in 0..2_000 {
        left = server.get("/load").json()["server_load"].as_f64().unwrap();
        if left == 0.0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(left, 0.0);
}

#[test]
fn a_full_queue_is_said_and_an_abort_ends_replies() {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let server = Server::start(&Settings { max_queued: 1, ..settings(home.path()) });
    assert_eq!(server.post("/v1/completions", &completion(json!({ "n": 2, "temperature": 1 }))).status, 503);
    server.post("/pause?mode=keep", &json!({}));
    let url = server.url.clone();
    let body = completion(json!({ "max_tokens": 400 }));
    let waiting = std::thread::spawn(move || {
        ask(&format!("{url}/v1/completions"), Some(&body), &Key::default(), Duration::from_secs(60)).unwrap().json()
    });
    while server.get("/load").json()["server_load"] == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    while server.post("/abort_requests", &json!({})).json()["aborted"] == 0 {}
    assert_eq!(waiting.join().unwrap()["choices"][0]["finish_reason"], "abort");
}

/// A PNG of a colour in a data URL.
fn data_url(level: u8, width: u32, height: u32) -> String {
    use base64::Engine as _;
    let png = crate::pictures::tests::frame(level, width, height).png;
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(png))
}

fn look(text: &str, urls: &[String]) -> Value {
    let mut parts: Vec<Value> = urls.iter().map(|url| json!({ "type": "image_url", "image_url": { "url": url } })).collect();
    parts.push(json!({ "type": "text", "text": text }));
    json!({ "model": "m", "messages": [{ "role": "user", "content": parts }], "max_tokens": 6, "temperature": 0,
        "return_token_ids": true, "logprobs": true })
}

#[test]
fn pictures_come_by_data_url_and_are_seen() {
    let home = tempfile::tempdir().unwrap();
    seeing_folder(home.path());
    let server = Server::start(&settings(home.path()));
    let post = |body: &Value| server.post("/v1/chat/completions", body);
    let scores = |urls: &[String]| {
        let answer = post(&look("the cup", urls));
        assert_eq!(answer.status, 200, "{}", answer.json());
        let json = answer.json();
        let first = json["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap();
        (json["usage"]["prompt_tokens"].as_u64().unwrap(), first)
    };
    let ((none, _), (one, light), (two, _)) =
        (scores(&[]), scores(&[data_url(250, 84, 56)]), scores(&[data_url(250, 84, 56), data_url(9, 56, 56)]));
    // A picture is 3 x 2 tokens between two that name its start and end, and 2 x 2 where it is square.
    assert_eq!((one - none, two - one), (8, 6));
    let (_, dark) = scores(&[data_url(0, 84, 56)]);
    assert!((light - dark).abs() > 1e-4, "what is shown is seen: {light} {dark}");
    assert_eq!(post(&look("<|image_pad|>", &[data_url(0, 84, 56)])).status, 400, "text is no picture");
    assert_eq!(server.post("/tokenize", &look("the cup", &[data_url(0, 84, 56)])).json()["count"], one);
}

#[test]
fn pictures_that_cannot_be_taken_are_refused_with_a_reason() {
    let home = tempfile::tempdir().unwrap();
    seeing_folder(home.path());
    let server = Server::start(&settings(home.path()));
    let refused = |url: &str, reason: &str| {
        let answer = server.post("/v1/chat/completions", &look("the cup", &[url.to_string()]));
        let message = answer.json()["error"]["message"].to_string();
        assert!(answer.status == 400 && message.contains(reason), "{}: {message}", answer.status);
    };
    let whole = data_url(7, 84, 56);
    refused("http://elsewhere/cup.png", "allowed: data:image/png;base64,");
    refused("data:image/png;base64,@@", "base64 is broken");
    refused("data:image/png;base64,aGVsbG8=", "no PNG");
    refused(&whole[..whole.len() - 40], "broken");
    refused(&data_url(7, 20_000, 2), "longer than 200 to 1");
    refused(&data_url(7, 4_200, 4_200), "at most 16777216 are taken");
    let crowd = vec![data_url(7, 56, 56); 65];
    assert_eq!(server.post("/v1/chat/completions", &look("the cup", &crowd)).status, 400);
    assert_eq!(server.post("/v1/chat/completions", &look("the cup", &[data_url(7, 1, 1)])).status, 200, "1 x 1 is made larger");
    let blind = tempfile::tempdir().unwrap();
    folder(blind.path(), 1);
    let text_only = Server::start(&settings(blind.path()));
    let answer = text_only.post("/v1/chat/completions", &look("the cup", &[data_url(7, 56, 56)]));
    assert!(answer.json()["error"]["message"].to_string().contains("not a multimodal model"));
}
