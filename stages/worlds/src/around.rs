//! Kinds and worlds around others: what a wrapper does not say itself, the one inside says.

use crate::{Acted, ActionName, Kind, Picture, Plan, RewardBounds, Scene, Standing, Task, World};

/// A kind around another one. Whoever implements it is a [`Kind`].
pub trait AroundKind: Send + Sync {
    fn inner(&self) -> &dyn Kind;

    fn name(&self) -> &'static str {
        self.inner().name()
    }

    /// A live world; see [`Kind::start`].
    ///
    /// # Errors
    /// As the kind inside.
    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String>;
}

impl<T: AroundKind> Kind for T {
    fn name(&self) -> &'static str {
        AroundKind::name(self)
    }

    fn actions(&self) -> &[ActionName] {
        self.inner().actions()
    }

    fn rules(&self) -> String {
        self.inner().rules()
    }

    fn reward_bounds(&self, steps: u32) -> RewardBounds {
        self.inner().reward_bounds(steps)
    }

    fn sample(&self, seed: u64, bucket: Option<&str>) -> Result<Task, String> {
        self.inner().sample(seed, bucket)
    }

    fn held_out(&self, number: u64) -> Result<Task, String> {
        self.inner().held_out(number)
    }

    fn buckets(&self) -> Vec<String> {
        self.inner().buckets()
    }

    fn scene(&self, task: &Task) -> Result<Option<Scene>, String> {
        self.inner().scene(task)
    }

    fn start(&self, task: &Task, scene: Option<&[u8]>) -> Result<Box<dyn World>, String> {
        AroundKind::start(self, task, scene)
    }

    fn corpus(&self, lines: usize) -> Vec<String> {
        self.inner().corpus(lines)
    }
}

/// A world around another one. Whoever implements it is a [`World`].
pub trait AroundWorld: Send {
    fn inner(&self) -> &dyn World;
    fn inner_mut(&mut self) -> &mut dyn World;

    fn observe(&self) -> String {
        self.inner().observe()
    }

    fn pictures(&self) -> Vec<Picture> {
        self.inner().pictures()
    }

    /// Runs an action; see [`World::act`].
    ///
    /// # Errors
    /// As the world inside.
    fn act(&mut self, action: &str) -> Result<Acted, String> {
        self.inner_mut().act(action)
    }

    fn expert(&mut self, actions: usize) -> Plan {
        self.inner_mut().expert(actions)
    }
}

impl<T: AroundWorld> World for T {
    fn observe(&self) -> String {
        AroundWorld::observe(self)
    }

    fn observe_blind(&self) -> String {
        self.inner().observe_blind()
    }

    fn pictures(&self) -> Vec<Picture> {
        AroundWorld::pictures(self)
    }

    fn instruction(&self) -> String {
        self.inner().instruction()
    }

    fn act(&mut self, action: &str) -> Result<Acted, String> {
        AroundWorld::act(self, action)
    }

    fn expert(&mut self, actions: usize) -> Plan {
        AroundWorld::expert(self, actions)
    }

    fn standing(&self) -> Standing {
        self.inner().standing()
    }

    fn body(&self) -> Vec<(&'static str, f32)> {
        self.inner().body()
    }

    fn state_key(&self) -> u64 {
        self.inner().state_key()
    }

    fn memory(&self, max_chars: usize) -> String {
        self.inner().memory(max_chars)
    }
}
