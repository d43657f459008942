//! FrozenLake with slow steps: the one world that is not pure, since waiting is its purpose.
//!
//! It stands for a simulator that takes milliseconds a step, so that a benchmark can show how throughput grows with steppers.

use crate::frozenlake::Lake;
use crate::kinds;
use crate::{Acted, AroundKind, AroundWorld, Kind, Task, World};
use std::time::Duration;

/// Longest step.
const STEP_MS_MAX: u64 = 60_000;
const STEP_MS_DEFAULT: u64 = 25;

/// The kind `delay`: FrozenLake's settings, and `step_ms`, the milliseconds that each action takes (25).
pub struct Delay {
    lake: Lake,
    step: Duration,
}

impl Delay {
    /// # Errors
    /// A line that names the setting and what is allowed.
    pub fn new(pictures: bool, table: &toml::Table) -> Result<Delay, String> {
        let mut table = table.clone();
        let step_ms = match table.remove("step_ms") {
            None => STEP_MS_DEFAULT,
            Some(toml::Value::Integer(value)) if value >= 0 => value as u64,
            Some(other) => return Err(format!("world.settings.step_ms is {other}: allowed is 0 to {STEP_MS_MAX}")),
        };
        kinds::within("step_ms", step_ms, 0, STEP_MS_MAX)?;
        Ok(Delay { lake: Lake::new(pictures, &table)?, step: Duration::from_millis(step_ms) })
    }
}

impl AroundKind for Delay {
    fn inner(&self) -> &dyn Kind {
        &self.lake
    }

    fn name(&self) -> &'static str {
        "delay"
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        Ok(Box::new(Slow { world: self.lake.start(task, scene)?, step: self.step }))
    }
}

struct Slow {
    world: Box<dyn World>,
    step: Duration,
}

impl AroundWorld for Slow {
    fn inner(&self) -> &dyn World {
        self.world.as_ref()
    }

    fn inner_mut(&mut self) -> &mut dyn World {
        self.world.as_mut()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        std::thread::sleep(self.step);
        self.world.act(action)
    }
}
