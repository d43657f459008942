//! `errand play`: a page on which a person drives the robot by keyboard, sees both cameras, the map and the text.
//!
//! Everything is served from this machine's loopback address. An episode that ends, or is left by its key, is appended to a
//! file as one JSON line: the task with its seed, and every action with whether it worked. `errand watch --recording` shows it.

use crate::show::{Choice, Show};
use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Path as Segment, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use render::look::Look;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use worlds::{Kind, Task};

const PAGE: &str = include_str!("play.html");

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    choice: Choice,
    /// The file to which trajectories are appended, one JSON object a line.
    #[arg(long, default_value = "played.jsonl")]
    out: PathBuf,
    /// Port of the page on 127.0.0.1; 0: any free one.
    #[arg(long, default_value_t = 8642)]
    port: u16,
}

/// A played episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recording {
    pub(crate) task: Task,
    pub(crate) instruction: String,
    /// Canonical names, in order.
    pub(crate) actions: Vec<String>,
    /// Whether each worked.
    pub(crate) worked: Vec<bool>,
    pub(crate) success: bool,
}

impl Recording {
    /// # Errors
    /// The file or the line is not there, or it is no recording.
    pub(crate) fn read(path: &Path, line: usize) -> Result<Recording> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let line_text = text.lines().nth(line).with_context(|| format!("{} has no line {line}", path.display()))?;
        serde_json::from_str(line_text).with_context(|| format!("{} line {line} is no recording", path.display()))
    }

    fn of(show: &Show) -> Recording {
        let (actions, worked) = show.deeds.iter().cloned().unzip();
        let success = show.world.standing().success;
        Recording { task: show.task.clone(), instruction: show.world.instruction(), actions, worked, success }
    }

    fn append(&self, path: &Path) -> Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("{}", path.display()))?;
        writeln!(file, "{}", serde_json::to_string(self)?).with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// The episode in play, and how the next one is chosen.
struct Game {
    kind: Arc<dyn Kind>,
    look: Look,
    choice: Choice,
    show: Show,
    out: PathBuf,
    saved: bool,
}

type Shared = Arc<Mutex<Game>>;

impl Game {
    fn new(arguments: &Arguments) -> Result<Game> {
        let (kind, task) = arguments.choice.task()?;
        let look = arguments.choice.look();
        let show = Show::new(kind.as_ref(), task, &look)?;
        Ok(Game { kind, look, choice: arguments.choice.clone(), show, out: arguments.out.clone(), saved: false })
    }

    fn act(&mut self, name: &str) -> Result<()> {
        if self.show.episode.over {
            return Ok(());
        }
        self.show.act(name)?;
        if self.show.episode.over { self.save() } else { Ok(()) }
    }

    /// Writes the episode, once, where anything was done.
    fn save(&mut self) -> Result<()> {
        if !self.saved && !self.show.deeds.is_empty() {
            Recording::of(&self.show).append(&self.out)?;
            self.saved = true;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.save()?;
        self.choice.line += 1;
        self.choice.seed += 1;
        let task =
            if self.choice.episodes.is_some() { self.kind.held_out(self.choice.line) } else { self.kind.sample(self.choice.seed, None) };
        self.show = Show::new(self.kind.as_ref(), task.map_err(anyhow::Error::msg)?, &self.look)?;
        self.saved = false;
        Ok(())
    }

    fn state(&self) -> String {
        let standing = self.show.world.standing();
        json!({
            "instruction": self.show.world.instruction(),
            "text": self.show.world.observe(),
            "steps": self.show.deeds.len(),
            "last": self.show.deeds.last(),
            "over": self.show.episode.over,
            "success": standing.success,
            "milestones": standing.milestones,
            "saved": self.saved.then(|| self.out.display().to_string()),
        })
        .to_string()
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let game: Shared = Arc::new(Mutex::new(Game::new(&arguments)?));
    let routes = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/state", get(state))
        .route("/sheet.png", get(sheet))
        .route("/act/{name}", post(act))
        .route("/next", post(next))
        .with_state(Arc::clone(&game));
    let listener =
        tokio::net::TcpListener::bind(("127.0.0.1", arguments.port)).await.context("the page's port is taken; hint: `--port 0`")?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, routes)
        .with_graceful_shutdown(async {
            // Where no signal can be waited for, the server runs until it is killed.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    locked(&game).save()?;
    Ok(ExitCode::SUCCESS)
}

fn locked(game: &Shared) -> MutexGuard<'_, Game> {
    // A panic in a picture leaves the episode as it was.
    game.lock().unwrap_or_else(PoisonError::into_inner)
}

fn json_of(game: &Game) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], game.state()).into_response()
}

fn refused(error: &anyhow::Error) -> Response {
    (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response()
}

async fn state(State(game): State<Shared>) -> Response {
    json_of(&locked(&game))
}

async fn sheet(State(game): State<Shared>) -> Response {
    match locked(&game).show.sheet().png() {
        Ok(png) => ([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")], png).into_response(),
        Err(error) => refused(&error),
    }
}

async fn act(State(game): State<Shared>, Segment(name): Segment<String>) -> Response {
    let mut game = locked(&game);
    match game.act(&name) {
        Ok(()) => json_of(&game),
        Err(error) => refused(&error),
    }
}

async fn next(State(game): State<Shared>) -> Response {
    let mut game = locked(&game);
    match game.next() {
        Ok(()) => json_of(&game),
        Err(error) => refused(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_played_is_written_and_plays_again() {
        let folder = tempfile::tempdir().unwrap();
        let choice = Choice { episodes: None, line: 0, seed: 3, task: "fetch".into(), houses: None, tier: "near".into(), look: None };
        let arguments = Arguments { choice, out: folder.path().join("played.jsonl"), port: 0 };
        let mut game = Game::new(&arguments).unwrap();
        for action in ["rotate_left", "move_ahead", "move_arm_up", "done"] {
            game.act(action).unwrap();
        }
        assert!(game.saved && game.act("fly").is_ok(), "an episode that is over takes no action");
        let recording = Recording::read(&arguments.out, 0).unwrap();
        assert_eq!(recording.actions, ["rotate_left", "move_ahead", "move_arm_up", "done"]);
        let mut again = Show::new(game.kind.as_ref(), recording.task.clone(), &Look::own()).unwrap();
        for action in &recording.actions {
            again.act(action).unwrap();
        }
        assert_eq!(again.sheet().rgb, game.show.sheet().rgb);
        game.next().unwrap();
        assert!(game.act("fly").unwrap_err().to_string().contains("fly"));
        assert!(Recording::read(&arguments.out, 1).is_err());
    }
}
