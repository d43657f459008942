//! `errand data sensors`: what the robot's sensors held after each primitive step, from the record alone.
//!
//! Nothing of this is stored: a seed and the actions say it all. An episode is lived again, compared with its record, and
//! read off step by step: `N` actions have `N + 1` rows, the first before any action.

use crate::data::Which;
use crate::data::place::Place;
use anyhow::{Context, Result, bail};
use clap::Args;
use env_stepper::again::{Again, Moment};
use futures::TryStreamExt;
use schemas::{End, EpisodeId, Mode};
use std::io::Write;
use std::path::Path;
use worlds::sensors::Sensors;
use worlds::{Picture, World};

/// What `errand data sensors` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Only this one, as `expert.17`.
    episode: Option<EpisodeId>,
    /// Say what the expert would have done at each step; it plans anew each time.
    #[arg(long)]
    expert: bool,
}

/// What is wanted beside the sensors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) pictures: bool,
    pub(crate) expert: bool,
}

/// One row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sensed {
    /// The turn of the action; `None` before any.
    pub(crate) turn: Option<u32>,
    /// What led here, and whether it worked; `None` before any.
    pub(crate) action: Option<(String, bool)>,
    pub(crate) sensors: Sensors,
    pub(crate) expert: Option<String>,
    pub(crate) pictures: Vec<Picture>,
}

impl Sensed {
    fn of(world: &dyn World, wanted: Wanted) -> Result<Sensed> {
        let sensors = world.sensors().context("this world has no sensors: only worlds with a body do, as `fetch`")?;
        Ok(Sensed {
            sensors,
            expert: if wanted.expert { world.advice() } else { None },
            pictures: if wanted.pictures { world.pictures() } else { vec![] },
            ..Sensed::default()
        })
    }
}

/// Whether a step was drawn by chance: every one of a format episode, none of another.
pub(crate) fn is_random(end: &End) -> bool {
    end.episode.mode == Mode::Format
}

/// An episode's rows.
///
/// # Errors
/// A world without sensors, or a record that is not lived again as it was.
pub(crate) fn sense(again: &Again, end: &End, wanted: Wanted) -> Result<Vec<Sensed>> {
    let scene = again.scene(&end.episode).map_err(anyhow::Error::msg)?;
    let (mut rows, mut wrong): (Vec<Sensed>, Option<anyhow::Error>) = (vec![], None);
    let mut look = |moment: Moment| {
        let row = match moment {
            Moment::Turn { world, .. } if rows.is_empty() => Sensed::of(world, wanted),
            Moment::Step { turn, action, acted, world } => {
                Sensed::of(world, wanted).map(|row| Sensed { turn: Some(turn), action: Some((action.to_string(), acted.worked)), ..row })
            }
            _ => return,
        };
        match row {
            Ok(row) => rows.push(row),
            Err(error) => drop(wrong.get_or_insert(error)),
        }
    };
    let differences = again.live(end, scene.as_deref(), &mut look).map_err(anyhow::Error::msg)?;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    if let Some(difference) = differences.first() {
        bail!("{difference}");
    }
    Ok(rows)
}

/// Prints the rows, one JSON object a line.
///
/// # Errors
/// As [`sense`], or no such episode.
pub(crate) async fn sensors(arguments: &Arguments, runs: &Path) -> Result<()> {
    let place = Place::open(runs, &arguments.which).await?;
    let again = place.again()?;
    let wanted = Wanted { expert: arguments.expert, pictures: false };
    let only = arguments.episode;
    let ends = place.reader.trajectories_where(move |row| only.is_none_or(|id| row.id == id) && row.turns > 0);
    let mut ends = std::pin::pin!(ends);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut episodes = 0;
    while let Some(end) = ends.try_next().await? {
        for (step, row) in sense(&again, &end, wanted).with_context(|| end.id().to_string())?.iter().enumerate() {
            serde_json::to_writer(&mut out, &line(&end, step, row)?)?;
            out.write_all(b"\n")?;
        }
        episodes += 1;
    }
    out.flush()?;
    if let (0, Some(id)) = (episodes, only) {
        bail!("run `{}` has no episode {id}", arguments.which.run);
    }
    Ok(())
}

fn line(end: &End, step: usize, row: &Sensed) -> Result<serde_json::Value> {
    let mut line = serde_json::json!({
        "id": end.id().to_string(),
        "step": step,
        "turn": row.turn,
        "last_action": row.action.as_ref().map(|(action, _)| action),
        "last_action_success": row.action.as_ref().map(|(_, worked)| worked),
        "last_action_is_random": row.action.is_some() && is_random(end),
    });
    if let Some(expert) = &row.expert {
        line["expert"] = expert.as_str().into();
    }
    let serde_json::Value::Object(sensors) = serde_json::to_value(&row.sensors)? else { return Ok(line) };
    for (name, value) in sensors {
        line[name] = value;
    }
    Ok(line)
}
