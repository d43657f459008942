//! `errand data show`: one trajectory as text, with its pictures beside it.

use crate::data::Which;
use crate::data::place::Place;
use anyhow::{Context, Result};
use schemas::{End, EpisodeId};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Prints a trajectory.
///
/// # Errors
/// No such episode, or a picture that cannot be written.
pub(crate) async fn show(runs: &Path, which: &Which, id: EpisodeId, pictures: Option<&Path>) -> Result<()> {
    let place = Place::open(runs, which).await?;
    let mut end = place.reader.end(id).await?.with_context(|| format!("run `{}` has no episode {id}", which.run))?;
    if let Some(folder) = pictures {
        if end.turns.iter().flat_map(|turn| &turn.frames).any(|digest| end.frames.iter().all(|frame| frame.digest != *digest)) {
            let again = place.again()?;
            let scene = again.scene(&end.episode).map_err(anyhow::Error::msg)?;
            end.frames = again.frames(&end, scene.as_deref()).map_err(anyhow::Error::msg)?;
        }
        std::fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        for frame in &end.frames {
            let path = folder.join(format!("{}.png", frame.digest));
            std::fs::write(&path, &frame.png).with_context(|| format!("`{}` cannot be written", path.display()))?;
        }
    }
    print!("{}", text(&end));
    Ok(())
}

/// A trajectory for people.
fn text(end: &End) -> String {
    let cameras: BTreeMap<&str, (&str, u32, u32)> =
        end.frames.iter().map(|f| (f.digest.as_str(), (f.camera.as_str(), f.width, f.height))).collect();
    let mut out = String::new();
    let order = &end.episode;
    let mut line = |text: std::fmt::Arguments| writeln!(out, "{text}").expect("a string takes what is written");
    line(format_args!("episode   {} of {}, seed {}, {:?}, bucket `{}`", end.id(), order.world, order.seed, order.mode, order.bucket));
    line(format_args!("level     {}{}", store::level_of(order), order.scene.as_ref().map_or(String::new(), |s| format!(", {}", s.origin))));
    if !order.task.is_empty() {
        line(format_args!("task      {}", String::from_utf8_lossy(&order.task)));
    }
    line(format_args!("ended     {}{}{}", end.reason.as_str(), if end.note.is_empty() { "" } else { ": " }, end.note));
    line(format_args!("success   {} (lenient {}), progress {}, {:?}", end.success, end.lenient, end.progress, end.milestones));
    let parts: Vec<String> = end.rewards.iter().map(|(part, value)| format!("{part} {value}")).collect();
    line(format_args!("return    {} = {}", end.total_reward(), parts.join(" + ")));
    line(format_args!("length    {} turns, {} primitive steps, {} segments", end.turns.len(), end.steps, end.segments.len()));
    for turn in &end.turns {
        line(format_args!("\n--- turn {}, state {}, version {}", turn.turn, turn.state_key, turn.version));
        for digest in &turn.frames {
            let (camera, width, height) = cameras.get(digest.as_str()).copied().unwrap_or(("not kept", 0, 0));
            line(format_args!("[{camera} {width}x{height} {digest}.png]"));
        }
        line(format_args!("{}", turn.observation));
        let mark = if turn.well_formed { "" } else { " (ill-formed)" };
        line(format_args!("> {}{mark}", turn.reply));
        let ran: Vec<String> = turn
            .executed
            .iter()
            .zip(&turn.worked)
            .map(|(action, worked)| if *worked { action.clone() } else { format!("{action} (failed)") })
            .collect();
        line(format_args!("= {}, reward {}", if ran.is_empty() { "nothing".into() } else { ran.join(", ") }, turn.reward));
        if !turn.dropped.is_empty() {
            line(format_args!("  dropped: {}", turn.dropped.join(", ")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    #[test]
    fn a_trajectory_reads_as_it_was_lived() {
        let told = text(&End::example());
        for part in ["P _ G", "> Right", "= Right, reward 0", "return    0.5", "out_of_steps"] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
