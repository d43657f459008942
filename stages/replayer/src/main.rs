//! The replayer's program.

use clap::Arg;

fn main() -> std::process::ExitCode {
    let arg = |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    kit::Program::new(replayer::NAME)
        .arg(arg("source", "URL", "A trajectory store, in place of the pipeline's offline.url"))
        .arg(arg("source-run", "NAME", "The run in it, in place of offline.run"))
        .run(|mut identity, matches| {
            let text = |name: &str| matches.get_one::<String>(name).cloned();
            let config = identity.pipeline.offline.get_or_insert_default();
            config.url = text("source").unwrap_or_else(|| config.url.clone());
            config.run = text("source-run").unwrap_or_else(|| config.run.clone());
            Ok(Box::new(replayer::Replayer::new(&identity)))
        })
}
