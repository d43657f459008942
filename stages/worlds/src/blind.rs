//! A kind of world whose agent sees nothing: pictures are black, and the text tells only what the agent knows without looking.
//!
//! What a policy still scores in it is what it knows of the levels beforehand; the rest is what it sees.

use crate::{Acted, ActionName, Kind, Picture, Plan, RewardBounds, Scene, Standing, Task, World};
use std::sync::Arc;

/// The same kind with the agent's eyes shut. Tasks, scenes, rewards and the expert stay as they are.
pub fn blind(kind: Arc<dyn Kind>) -> Arc<dyn Kind> {
    Arc::new(BlindKind(kind))
}

struct BlindKind(Arc<dyn Kind>);

impl Kind for BlindKind {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn actions(&self) -> &[ActionName] {
        self.0.actions()
    }

    fn rules(&self) -> String {
        self.0.rules()
    }

    fn reward_bounds(&self, steps: u32) -> RewardBounds {
        self.0.reward_bounds(steps)
    }

    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        self.0.sample(seed, bucket)
    }

    fn held_out(&self, number: u64) -> Result<Task, String> {
        self.0.held_out(number)
    }

    fn buckets(&self) -> Vec<String> {
        self.0.buckets()
    }

    fn scene(&self, task: &Task) -> Result<Option<Scene>, String> {
        self.0.scene(task)
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        Ok(Box::new(BlindWorld(self.0.start(task, scene)?)))
    }

    fn corpus(&self, lines: usize) -> Vec<String> {
        self.0.corpus(lines)
    }
}

struct BlindWorld(Box<dyn World>);

impl World for BlindWorld {
    fn observe(&self) -> String {
        self.0.observe_blind()
    }

    fn pictures(&self) -> Vec<Picture> {
        let black = |picture: Picture| Picture { rgb: vec![0; picture.rgb.len()], ..picture };
        self.0.pictures().into_iter().map(black).collect()
    }

    fn instruction(&self) -> String {
        self.0.instruction()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        self.0.act(action)
    }

    fn expert(&mut self, actions: usize) -> Plan {
        self.0.expert(actions)
    }

    fn standing(&self) -> Standing {
        self.0.standing()
    }

    fn state_key(&self) -> u64 {
        self.0.state_key()
    }

    fn memory(&self, max_chars: usize) -> String {
        self.0.memory(max_chars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Houses, kind};

    fn lake(pictures: bool) -> (Arc<dyn Kind>, Task) {
        let kind = kind("frozenlake", pictures, &toml::Table::new(), Houses::default()).expect("default settings");
        let task = kind.sample(3, None).expect("a level");
        (kind, task)
    }

    #[test]
    fn text_tells_nothing_of_the_level() {
        let (kind, task) = lake(false);
        let (seen, unseen) = (kind.start(&task, None).expect("a world"), blind(kind.clone()).start(&task, None).expect("a world"));
        assert!(!seen.observe().is_empty());
        assert_eq!(unseen.observe(), "");
        assert_eq!(unseen.instruction(), seen.instruction());
    }

    #[test]
    fn pictures_are_black_and_as_many_and_as_large() {
        let (kind, task) = lake(true);
        let (seen, unseen) = (kind.start(&task, None).expect("a world"), blind(kind.clone()).start(&task, None).expect("a world"));
        let (bright, dark) = (seen.pictures(), unseen.pictures());
        assert_eq!((bright.len(), bright[0].width, bright[0].height), (dark.len(), dark[0].width, dark[0].height));
        assert!(bright[0].rgb.iter().any(|byte| *byte != 0) && dark[0].rgb.iter().all(|byte| *byte == 0));
        assert_eq!(unseen.observe().matches("<image>").count(), seen.observe().matches("<image>").count());
    }

    #[test]
    fn actions_do_what_they_do_in_the_light() {
        let (kind, task) = lake(false);
        let (mut seen, mut unseen) = (kind.start(&task, None).expect("a world"), blind(kind.clone()).start(&task, None).expect("a world"));
        for _ in 0..3 {
            let action = seen.expert(1).actions.first().cloned();
            let Some(action) = action else { break };
            assert_eq!(seen.act(&action), unseen.act(&action));
        }
        assert_eq!(seen.state_key(), unseen.state_key());
    }
}
