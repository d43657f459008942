//! `errand watch`: an episode as a GIF, played by the expert or from a recording.

use crate::{
    play::Recording,
    sheet::Film,
    show::{Choice, Show},
};
use anyhow::{Context, Result};
use std::{fs::File, io::BufWriter, path::PathBuf, process::ExitCode};

/// Longer episodes are cut off.
const MOST_ACTIONS: usize = 600;
/// How long the last frame stands, hundredths of a second.
const LAST_HUNDREDTHS: u16 = 200;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// Who acts: `expert`, or `recorded` with `--recording`.
    #[arg(long, default_value = "expert", value_parser = ["expert", "recorded"])]
    policy: String,
    /// What `errand play` wrote; its first line is played, or that of `--line`.
    #[arg(long)]
    recording: Option<PathBuf>,
    /// The file to write.
    #[arg(long, default_value = "episode.gif")]
    out: PathBuf,
    /// A frame for each so many actions.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// How long a frame stands, hundredths of a second.
    #[arg(long, default_value_t = 25)]
    hundredths: u16,
    /// Also writes each frame as a PNG beside the GIF.
    #[arg(long)]
    stills: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let recording = match (&arguments.recording, arguments.policy.as_str()) {
        (Some(path), _) => Some(Recording::read(path, arguments.choice.line as usize)?),
        (None, "recorded") => anyhow::bail!("`--policy recorded` needs `--recording FILE`"),
        (None, _) => None,
    };
    let (kind, task) = match &recording {
        Some(recording) => (Choice { episodes: None, ..arguments.choice.clone() }.task()?.0, recording.task.clone()),
        None => arguments.choice.task()?,
    };
    let mut show = Show::new(kind.as_ref(), task, &arguments.choice.look())?;
    let first = show.sheet();
    let file = File::create(&arguments.out).with_context(|| format!("{} cannot be written", arguments.out.display()))?;
    let mut film = Film::new(BufWriter::new(file), first.width, first.height)?;
    film.frame(&first, arguments.hundredths)?;
    let mut frames = 1;
    let mut count = 0;
    while count < MOST_ACTIONS && !show.episode.over {
        let next = match &recording {
            Some(recording) => recording.actions.get(count).cloned(),
            None => show.world.expert(1).actions.into_iter().next(),
        };
        let Some(action) = next else { break };
        show.act(&action)?;
        count += 1;
        let last = show.episode.over;
        if last || count % arguments.every as usize == 0 {
            let sheet = show.sheet();
            film.frame(&sheet, if last { LAST_HUNDREDTHS } else { arguments.hundredths })?;
            if arguments.stills {
                std::fs::write(arguments.out.with_extension(format!("{count:03}.png")), sheet.png()?)?;
            }
            frames += 1;
        }
    }
    let outcome = if show.world.standing().success { "success" } else { "no success" };
    println!("{}: {count} actions, {outcome}, {frames} frames", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}
