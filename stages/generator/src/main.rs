//! The generator's program: the stage of the library with the policy's own engine, or the scripted one.

mod builtin;
mod listen;

use generator::http_client::Key;
use generator::{Chat, Engine, Files, Generator, Scripted, Vllm, chat, vllm};
use kit::stage::Identity;
use schemas::pipeline::{Engine as EngineName, WeightSync};

fn main() -> std::process::ExitCode {
    // Behind HTTP it is no stage: it needs no run and no broker.
    if std::env::args().any(|argument| argument == "--http" || argument.starts_with("--http=")) {
        return listen::main();
    }
    if let [flag, url, model, variable] = &std::env::args().skip(1).collect::<Vec<_>>()[..]
        && flag == "--check"
    {
        return check(url, model, variable);
    }
    kit::main("generator", |identity| {
        let pipeline = identity.clone();
        let make = move |files: &Files| make(&pipeline, files);
        Ok(Box::new(Generator::new(identity, Box::new(make))))
    })
}

/// `generator --check URL MODEL VARIABLE`: says which model a `chat` server would be asked for, or why it can be asked for none.
fn check(url: &str, model: &str, variable: &str) -> std::process::ExitCode {
    match Key::of_variable(variable).and_then(|key| chat::check(url, model, &key)) {
        Ok(model) => {
            println!("{model}");
            std::process::ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn make(identity: &Identity, files: &Files) -> Result<Box<dyn Engine>, String> {
    let pipeline = &identity.pipeline;
    match pipeline.generator.engine {
        EngineName::Builtin => Ok(Box::new(builtin::Builtin::new(pipeline, files)?)),
        EngineName::Vllm => {
            let settings = &pipeline.generator;
            let config = policy::ModelConfig::from_json(&files.config).map_err(|e| e.to_string())?;
            // Generators of one run drop versions at different times, so names and folders are each one's own.
            let own = (settings.sync == WeightSync::Lora).then(|| format!("{}-{}", identity.run, identity.id));
            let options = vllm::Options {
                urls: settings.urls.iter().map(|url| url.trim_end_matches('/').to_string()).collect(),
                folder: std::path::absolute(&settings.weights_folder)
                    .map_err(|e| e.to_string())?
                    .join(own.as_ref().unwrap_or(&identity.run)),
                files: vec![("config.json".into(), files.config.clone())],
                banned: files.context.tokenizer.banned_ids(config.vocab_size),
                keep_kv: settings.keep_kv_across_versions && !pipeline.deterministic,
                key: Key::of_variable(&settings.api_key_env)?,
                adapters: own,
            };
            Ok(Box::new(Vllm::new(options)?))
        }
        EngineName::Chat => {
            let settings = &pipeline.generator;
            let url = settings.urls.first().ok_or("`generator.urls` is empty; hint: urls = [\"http://host:8000\"]")?;
            Ok(Box::new(Chat::new(url, &settings.model, Key::of_variable(&settings.api_key_env)?, files.context.clone())?))
        }
        EngineName::Scripted => {
            let world = &pipeline.world;
            let kind = worlds::kind(&world.name, world.pictures, &world.settings, worlds::Houses::default())?;
            let actions = kind.actions().iter().map(|a| a.name.to_string()).collect();
            Ok(Box::new(Scripted::new(files.context.clone(), pipeline.prompt.clone(), actions)?))
        }
    }
}
