//! `errand bench memory`: what each stage holds at rest, with a pipeline's tokenizer and houses loaded and nothing to do.
//!
//! Without a learner nothing is granted, so nothing moves.

use super::{free_run, process, report};
use crate::broker::Broker;
use crate::stages::beside_this;
use crate::{config, kinds, up};
use anyhow::Result;
use futures::StreamExt;
use schemas::{Presence, subjects};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Stages that do not link libtorch.
const LIGHT: [&str; 4] = ["scene-loader", "env-stepper", "prompt-renderer", "recorder"];
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) async fn run(runs: &Path, pipeline: &Path, tokenizer: Option<PathBuf>) -> Result<Value> {
    let mut loaded = config::load(pipeline)?;
    if let Some(folder) = tokenizer {
        loaded.pipeline.policy.tokenizer = folder.display().to_string();
        loaded.text = toml::to_string(&loaded.pipeline)?;
    }
    let home = tempfile::tempdir()?;
    std::fs::create_dir_all(home.path().join("logs"))?;
    let broker = Broker::start(home.path()).await?;
    let client = up::connect(&broker.url).await?;
    let name = free_run(runs, "bench-memory");
    let kind = kinds::kind(&loaded.pipeline)?;
    up::prepare(&client, &name, &loaded, kind.as_ref(), home.path(), false).await?;
    let mut children = Vec::new();
    for stage in LIGHT {
        children.push(start(stage, &broker.url, &name, home.path())?);
    }
    let heard = listen(&client, &name).await?;
    let mut figures = Map::new();
    for stage in LIGHT {
        let pid = heard.get(stage).map(|p| p.pid);
        let pid = pid.ok_or_else(|| anyhow::anyhow!("`{stage}` did not come up; hint: run it by hand and see what it says"))?;
        figures.insert(format!("resident_mib.{stage}"), json!(process::resident_mib(pid)));
    }
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(report("memory", figures, Map::new()))
}

fn start(stage: &str, nats: &str, run: &str, folder: &Path) -> Result<Child> {
    let mut command = Command::new(beside_this(stage)?);
    command.args(["--nats", nats, "--run", run, "--id", stage]).arg("--folder").arg(folder);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

async fn listen(client: &async_nats::Client, run: &str) -> Result<BTreeMap<String, Presence>> {
    let mut messages = client.subscribe(subjects::presence_all(run)).await?;
    let deadline = tokio::time::Instant::now() + SETTLE;
    let mut heard = BTreeMap::new();
    while let Ok(Some(message)) = tokio::time::timeout_at(deadline, messages.next()).await {
        if let Ok(presence) = schemas::decode::<Presence>(&message.payload) {
            heard.insert(presence.stage.clone(), presence);
        }
    }
    Ok(heard)
}
