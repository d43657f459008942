//! `errand model check`: whether a model folder can be a policy.
//!
//! The tokenizer is looked at here; the model itself by `model-check`, a program beside this one, since this one links no libtorch.

use anyhow::{Context as _, Result, ensure};
use context::{Template, Tokenizer};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(clap::Subcommand)]
pub(crate) enum Model {
    /// Says what a Hugging Face folder holds and takes, and compares it with `parity.safetensors` in it where that is there.
    Check { folder: PathBuf },
}

pub(crate) fn run(command: &Model) -> Result<ExitCode> {
    let Model::Check { folder } = command;
    ensure!(folder.is_dir(), "{}: no folder", folder.display());
    check_tokenizer(folder).with_context(|| folder.display().to_string())?;
    let status = Command::new(crate::stages::beside_this("model-check")?).arg(folder).status().context("model-check")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A folder without a tokenizer may still be checked for its weights, and says so.
fn check_tokenizer(folder: &Path) -> Result<()> {
    let read = |name: &str| std::fs::read(folder.join(name)).with_context(|| name.to_string());
    let config: serde_json::Value = serde_json::from_slice(&read("config.json")?).context("config.json")?;
    if !folder.join("tokenizer.json").exists() {
        eprintln!("errand: warning: {}: no tokenizer.json, so it can be no policy yet", folder.display());
        return Ok(());
    }
    let mut settings = read("tokenizer_config.json")?;
    // Newer folders keep the template in a file of its own.
    if let Ok(template) = read("chat_template.jinja") {
        let mut keys: serde_json::Value = serde_json::from_slice(&settings).context("tokenizer_config.json")?;
        if let Some(keys) = keys.as_object_mut().filter(|keys| !keys.contains_key("chat_template")) {
            keys.insert("chat_template".into(), String::from_utf8_lossy(&template).into());
        }
        settings = serde_json::to_vec(&keys)?;
    }
    let tokenizer = Tokenizer::from_files(&read("tokenizer.json")?, &settings)?;
    Template::new(&tokenizer)?;
    let rows = ["/vocab_size", "/text_config/vocab_size"].iter().find_map(|at| config.pointer(at)).and_then(|n| n.as_u64());
    let rows = rows.context("config.json: `vocab_size` is missing")?;
    let ids = tokenizer.vocab_size() as u64;
    ensure!(ids <= rows, "tokenizer.json holds {ids} ids, config.json has {rows} rows for them; hint: they are of different models");
    eprintln!("tokenizer: {ids} ids in {rows} rows, a reply ends with {}", tokenizer.end_of_turn());
    Ok(())
}
