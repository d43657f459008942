//! `errand eval`: judges a policy, or a server's model, on a pipeline's held-out episodes, by the one protocol, and keeps a
//! leaderboard.

use crate::{config, kinds, loopback, up};
use anyhow::{Context, Result, bail};
use clap::Args;
use schemas::Split;
use schemas::pipeline::{Engine, Pipeline, WeightSync};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `errand eval` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Whose world, prompt, limits and held-out episodes are used.
    pipeline: PathBuf,
    /// A Hugging Face folder, `random` or `expert`.
    #[arg(long, required_unless_present = "url", conflicts_with = "url")]
    policy: Option<String>,
    /// In place of a policy: an OpenAI-compatible server, `http://HOST:PORT` or `https://HOST`. It is told the conversation in messages.
    #[arg(long)]
    url: Option<String>,
    /// The model's name on that server; without it, the only one there.
    #[arg(long, requires = "url", default_value = "")]
    model: String,
    /// The environment variable that holds the server's API key; where it is not set no key is sent.
    #[arg(long, requires = "url", value_name = "NAME", default_value = "OPENAI_API_KEY")]
    api_key_env: String,
    /// Shut the policy's eyes: frames black, object text removed. What is left is what it knows without looking.
    #[arg(long)]
    blind: bool,
    /// A frozen episode file in place of the pipeline's own.
    #[arg(long)]
    episodes: Option<PathBuf>,
    /// How many of them.
    #[arg(long)]
    count: Option<u64>,
    /// 0 is greedy.
    #[arg(long)]
    temperature: Option<f32>,
    /// One JSON line is appended for each evaluation.
    #[arg(long, default_value = "runs/leaderboard.jsonl")]
    leaderboard: PathBuf,
}

/// Evaluates, prints the result as JSON and appends it to the leaderboard.
pub(crate) async fn run(arguments: &Arguments, runs: &Path) -> Result<ExitCode> {
    let mut loaded = config::load(&arguments.pipeline)?;
    apply(arguments, &mut loaded.pipeline);
    let digest = episodes_digest(&loaded.pipeline)?;
    let (policy, pass) = match (&arguments.url, arguments.policy.as_deref().unwrap_or_default()) {
        (Some(url), _) => {
            let model = ask_server(url, arguments, &mut loaded.pipeline)?;
            (format!("{model} at {url}"), played(loaded.clone(), runs).await?)
        }
        (None, "expert") => ("expert".to_string(), expert(&loaded.pipeline)?),
        (None, policy) => {
            take_policy(policy, &mut loaded.pipeline)?;
            (policy.to_string(), played(loaded.clone(), runs).await?)
        }
    };
    let greedy = loaded.pipeline.sampling.validation_temperature == 0.0;
    let line = json!({
        "policy": policy,
        "pipeline": loaded.pipeline.name,
        "world": loaded.pipeline.world.name,
        "inputs": inputs(&loaded.pipeline),
        "episodes_digest": digest,
        "actions": if greedy { "greedy" } else { "sampled" },
        "result": pass,
    });
    append(&arguments.leaderboard, &line)?;
    println!("{}", serde_json::to_string_pretty(&line)?);
    let (episodes, errors) = (line["result"]["episodes"].as_u64(), line["result"]["errors"].as_u64());
    if errors.is_some_and(|errors| errors > 0 && Some(errors) == episodes) {
        bail!("not one of the episodes was played to its end; hint: the stages' logs say why");
    }
    Ok(ExitCode::SUCCESS)
}

fn apply(arguments: &Arguments, pipeline: &mut Pipeline) {
    if let Some(file) = &arguments.episodes {
        pipeline.episodes.validation_file = file.display().to_string();
    }
    pipeline.world.blind = arguments.blind;
    if let Some(count) = arguments.count {
        pipeline.episodes.validation = count;
    }
    if let Some(temperature) = arguments.temperature {
        pipeline.sampling.validation_temperature = temperature;
    }
}

/// What the policy was given beside the instruction.
fn inputs(pipeline: &Pipeline) -> &'static str {
    match (pipeline.world.blind, pipeline.world.pictures) {
        (true, _) => "blind: frames black, object text removed",
        (false, true) => "pictures",
        (false, false) => "text: ground-truth perception",
    }
}

/// The frozen file's digest, or what its levels follow from.
fn episodes_digest(pipeline: &Pipeline) -> Result<String> {
    let file = &pipeline.episodes.validation_file;
    if file.is_empty() {
        return Ok(format!("held-out levels of `{}`, the first {}", pipeline.world.name, pipeline.episodes.validation));
    }
    let bytes = std::fs::read(file).with_context(|| format!("`{file}` cannot be read"))?;
    Ok(schemas::digest_of(&bytes))
}

/// The expert, in this process.
fn expert(pipeline: &Pipeline) -> Result<Value> {
    let kind = kinds::kind(pipeline)?;
    let tasks =
        (0..pipeline.episodes.validation).map(|number| kind.held_out(number).map_err(anyhow::Error::msg)).collect::<Result<Vec<_>>>()?;
    let ends = loopback::run_expert(pipeline, &kind, Split::Val, &tasks)?;
    let count = ends.len().max(1) as f64;
    let share = |holds: &dyn Fn(&schemas::End) -> bool| ends.iter().filter(|e| holds(e)).count() as f64 / count;
    Ok(json!({
        "episodes": ends.len(),
        "success": share(&|e| e.success),
        "lenient": share(&|e| e.lenient),
        "mean_steps": ends.iter().map(|e| f64::from(e.steps)).sum::<f64>() / count,
    }))
}

/// Has the generators ask a server, once it is seen to serve the model. Gives the model's name.
fn ask_server(url: &str, arguments: &Arguments, pipeline: &mut Pipeline) -> Result<String> {
    let program = crate::stages::beside_this("generator")?;
    let output = std::process::Command::new(&program).args(["--check", url, &arguments.model, &arguments.api_key_env]).output();
    let output = output.with_context(|| format!("`{}` cannot be started", program.display()))?;
    if !output.status.success() {
        bail!("--url: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    if !pipeline.prompt.system {
        eprintln!("hint: `prompt.system` is false, so the server's model is told nothing of the rules");
    }
    let generator = &mut pipeline.generator;
    generator.engine = Engine::Chat;
    generator.urls = vec![url.to_string()];
    generator.api_key_env.clone_from(&arguments.api_key_env);
    generator.model = String::from_utf8_lossy(&output.stdout).trim().to_string();
    Ok(generator.model.clone())
}

fn take_policy(policy: &str, pipeline: &mut Pipeline) -> Result<()> {
    match policy {
        "random" => pipeline.generator.engine = Engine::Scripted,
        "blind" => bail!("`blind` is not a policy of its own; hint: --policy FOLDER --blind shuts a policy's eyes"),
        // What was trained as an adapter lies there merged.
        folder if Path::new(folder).is_dir() => {
            (pipeline.policy.folder, pipeline.policy.lora) = (folder.to_string(), None);
            pipeline.generator.sync = WeightSync::Reload;
        }
        other => bail!("`{other}` is no folder; allowed: a policy folder, random, expert"),
    }
    Ok(())
}

/// A policy, through the whole pipeline: a run whose schedule is empty, so that only the validation pass is left.
async fn played(mut loaded: config::Loaded, runs: &Path) -> Result<Value> {
    loaded.pipeline.schedule.clear();
    loaded.pipeline.learner.validate = true;
    loaded.text = toml::to_string(&loaded.pipeline)?;
    let options = up::Options { nats: None, run: None, runs: runs.to_path_buf(), resume: false, feasibility: false };
    let summary = up::up(&loaded, &options).await?.context("the evaluation was stopped")?;
    let passes = &summary.json["validation"];
    passes.as_array().and_then(|all| all.last()).cloned().context("no validation pass was made")
}

fn append(path: &Path, line: &Value) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("`{}` cannot be written", path.display()))?;
    writeln!(file, "{line}")?;
    Ok(())
}
