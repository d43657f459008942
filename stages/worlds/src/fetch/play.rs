//! A live errand.

use super::{pictures, pictures::Cameras, sensors::sensors, words};
use crate::{Acted, Picture, Plan, Standing, World, kinds::listed, sensors::Sensors};
use household::{
    expert::Expert,
    fetch::Episode,
    robot::{ACTIONS, Action},
    tasks::Rewards,
};

/// An episode with its expert and an account of what was done.
pub(super) struct Errand {
    pub(super) episode: Episode,
    expert: Expert,
    /// `None`: the pipeline pays.
    rewards: Option<Rewards>,
    others: usize,
    /// `None`: text only.
    cameras: Option<Cameras>,
    /// What was done, equal actions counted together: the action, whether it worked, how often.
    deeds: Vec<(Action, bool, u32)>,
}

impl Errand {
    pub(super) fn new(episode: Episode, rewards: Option<Rewards>, others: usize, cameras: Option<Cameras>) -> Errand {
        Errand { episode, expert: Expert::default(), rewards, others, cameras, deeds: Vec::new() }
    }

    fn note(&mut self, action: Action, worked: bool) {
        match self.deeds.last_mut() {
            Some((last, same, count)) if *last == action && *same == worked => *count += 1,
            _ => self.deeds.push((action, worked, 1)),
        }
    }
}

impl World for Errand {
    fn observe(&self) -> String {
        match self.cameras {
            Some(_) => pictures::words(&self.episode, &words::proprioception(&self.episode)),
            None => words::observe(&self.episode, self.others),
        }
    }

    fn pictures(&self) -> Vec<Picture> {
        self.cameras.as_ref().map_or_else(Vec::new, |cameras| cameras.pictures(&self.episode.sim))
    }

    fn instruction(&self) -> String {
        self.episode.task.instruction.clone()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        let Some(action) = Action::named(action) else {
            let names = ACTIONS.each_ref().map(|spelling| spelling.name);
            let nearest = names.into_iter().max_by(|one, other| strsim::jaro(one, action).total_cmp(&strsim::jaro(other, action)));
            let hint = nearest.map(|name| format!("; hint: `{name}`")).unwrap_or_default();
            return Err(format!("fetch has no action `{action}`: allowed are {}{hint}", listed(&names)));
        };
        if self.episode.over {
            return Err(format!("fetch: `{}` was asked for after the episode's end", action.name()));
        }
        let worked = self.episode.act(action);
        self.note(action, worked);
        let reward = self.rewards.as_mut().map_or(0.0, |rewards| rewards.pay(&self.episode)) as f32;
        Ok(Acted { worked, reward, over: self.episode.over })
    }

    fn expert(&mut self, actions: usize) -> Plan {
        let plan = self.expert.next(&self.episode, actions);
        if plan.is_empty() {
            return Plan::default();
        }
        let mut after = self.episode.clone();
        for &action in &plan {
            after.act(action);
        }
        Plan {
            observation: words::sentence(&self.episode, false),
            reasoning: words::reason(&self.episode, plan[0]),
            prediction: words::sentence(&after, true),
            actions: plan.into_iter().map(|action| action.name().to_string()).collect(),
        }
    }

    fn body(&self) -> Vec<(&'static str, f32)> {
        let robot = &self.episode.sim.robot;
        let numbers = [
            ("x", robot.position.x),
            ("z", robot.position.z),
            ("yaw", robot.yaw),
            ("lift", robot.lift),
            ("extension", robot.extension),
            ("wrist", robot.wrist),
            ("holds_target", f64::from(u8::from(self.episode.holds_target()))),
        ];
        numbers.map(|(name, value)| (name, value as f32)).to_vec()
    }

    fn sensors(&self) -> Option<Sensors> {
        Some(sensors(&self.episode))
    }

    fn advice(&self) -> Option<String> {
        Expert::default().next(&self.episode, 1).first().map(|action| action.name().to_string())
    }

    fn standing(&self) -> Standing {
        Standing {
            success: self.episode.success(),
            lenient: self.episode.lenient(),
            progress: self.episode.progress(),
            milestones: self.episode.milestones.iter().map(|milestone| milestone.name().to_string()).collect(),
        }
    }

    fn state_key(&self) -> u64 {
        self.episode.key()
    }

    fn memory(&self, max_chars: usize) -> String {
        let mut text = String::new();
        // The latest deeds count most: from the back until the room is used up.
        for (action, worked, count) in self.deeds.iter().rev() {
            let times = if *count > 1 { format!(" x{count}") } else { String::new() };
            let failed = if *worked { "" } else { " failed" };
            let deed = format!("{}{times}{failed}", action.name());
            let joined = if text.is_empty() { deed } else { format!("{deed}, {text}") };
            if joined.len() > max_chars {
                break;
            }
            text = joined;
        }
        text
    }
}
