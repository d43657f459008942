//! Versions as adapters: each is loaded under a name of its own, beside a base that stays. Several are held at once.

use crate::http_client::{Answer, Key, ask};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// How long a server may take to read an adapter.
const LOAD: Duration = Duration::from_secs(120);
/// How long it may take to forget one.
const UNLOAD: Duration = Duration::from_secs(10);

/// Writes a version, as [`policy::Trainer::adapter`] made it, as PEFT's folder.
pub(super) fn write(folder: &Path, bytes: &[u8]) -> Result<(), String> {
    let config = policy::adapter_config(bytes).map_err(|e| format!("no adapter: {e}"))?;
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for (name, bytes) in [("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", bytes)] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Has a server read the adapter in `folder` and serve it as `name`; where it serves one so already, that one stays, or is
/// put aside.
pub(super) fn load(url: &str, name: &str, folder: &Path, anew: bool, key: &Key) -> Result<(), String> {
    let body = json!({ "lora_name": name, "lora_path": folder });
    let post = || ask(&format!("{url}/v1/load_lora_adapter"), Some(&body), key, LOAD);
    let mut answer = post()?;
    if answer.status == 400 && message(&answer).contains("already been loaded") {
        if !anew {
            return Ok(());
        }
        // Of the same name, but perhaps not of the same weights.
        unload(url, name, key)?;
        answer = post()?;
    }
    if answer.status == 200 { Ok(()) } else { Err(refusal(&answer, key)) }
}

/// Has a server forget an adapter.
pub(super) fn unload(url: &str, name: &str, key: &Key) -> Result<(), String> {
    let answer = ask(&format!("{url}/v1/unload_lora_adapter"), Some(&json!({ "lora_name": name })), key, UNLOAD)?;
    if matches!(answer.status, 200 | 404) { Ok(()) } else { Err(refusal(&answer, key)) }
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_default().replace(['\n', '\r'], " ")
}

/// Why a server has not taken an adapter, with what it has to be started with.
fn refusal(answer: &Answer, key: &Key) -> String {
    let said = message(answer);
    let hint = match answer.status {
        401 => key.hint(),
        404 if answer.json()["detail"] == "Not Found" => {
            "hint: start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora".into()
        }
        404 => "hint: `generator.weights_folder` is to be a folder that the server reads under the same path".into(),
        _ if said.contains("LoRA is not enabled") => "hint: start the server with --enable-lora --max-lora-rank RANK".into(),
        _ if said.contains("max_lora_rank") => "hint: start the server with --max-lora-rank of at least `policy.lora.rank`".into(),
        _ => return format!("/v1/load_lora_adapter answers {}: {said}", answer.status),
    };
    format!("/v1/load_lora_adapter answers {}: {said}; {hint}", answer.status).replace(": ; ", "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_flag_that_is_missing() {
        let told = |status, body: serde_json::Value| refusal(&Answer { status, body: body.to_string().into_bytes() }, &Key::default());
        let error = |message: &str| json!({ "error": { "message": message } });
        assert!(
            told(404, json!({ "detail": "Not Found" })).contains("404; hint: start the server with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
        );
        assert!(told(500, error("LoRA is not enabled. Use --enable-lora")).contains("hint: start the server with --enable-lora"));
        assert!(told(400, error("LoRA rank 16 is greater than max_lora_rank 8.")).contains("--max-lora-rank"));
        assert!(told(404, error("No adapter found for x")).contains("weights_folder"));
        assert!(told(401, json!({ "error": "Unauthorized" })).contains("--api-key-env"));
    }
}
