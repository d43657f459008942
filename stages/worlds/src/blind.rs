//! A kind of world whose agent sees nothing: pictures are black, and the text tells only what the agent knows without looking.
//!
//! What a policy still scores in it is what it knows of the levels beforehand; the rest is what it sees.

use crate::{AroundKind, AroundWorld, Kind, Picture, Task, World};
use std::sync::Arc;

/// The same kind with the agent's eyes shut. Tasks, scenes, rewards and the expert stay as they are.
pub fn blind(kind: Arc<dyn Kind>) -> Arc<dyn Kind> {
    Arc::new(BlindKind(kind))
}

struct BlindKind(Arc<dyn Kind>);

impl AroundKind for BlindKind {
    fn inner(&self) -> &dyn Kind {
        self.0.as_ref()
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        Ok(Box::new(BlindWorld(self.0.start(task, scene)?)))
    }
}

struct BlindWorld(Box<dyn World>);

impl AroundWorld for BlindWorld {
    fn inner(&self) -> &dyn World {
        self.0.as_ref()
    }

    fn inner_mut(&mut self) -> &mut dyn World {
        self.0.as_mut()
    }

    fn observe(&self) -> String {
        self.0.observe_blind()
    }

    fn pictures(&self) -> Vec<Picture> {
        let black = |picture: Picture| Picture { rgb: vec![0; picture.rgb.len()], ..picture };
        self.0.pictures().into_iter().map(black).collect()
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
