//! The robot's two cameras as pictures, and the few words that go with them.
//!
//! In: a scene, a look and a size; then the episode as it stands. Out: the navigation and the manipulation camera's picture,
//! in this order. Buffers are shared by all worlds of a thread, so that a world costs what its house's model costs.

use crate::{Picture, kinds};
use household::{scene::Scene, sim::Sim, tasks::Episode, view::Eye};
use render::{Model, Renderer, Size, look::Look};
use std::{cell::RefCell, sync::Arc};

/// Least and most side of a picture, pixels.
const SIDES: (u32, u32) = (16, 1024);

thread_local! {
    static RENDERER: RefCell<Option<Renderer>> = const { RefCell::new(None) };
}

/// A house that can be photographed.
#[derive(Clone)]
pub(super) struct Cameras {
    model: Arc<Model>,
    size: Size,
}

/// A picture's size, checked.
///
/// # Errors
/// A line that names the setting and what is allowed.
pub(super) fn size(width: u32, height: u32) -> Result<Size, String> {
    kinds::within("width", width, SIDES.0, SIDES.1)?;
    kinds::within("height", height, SIDES.0, SIDES.1)?;
    Ok(Size { width: width as usize, height: height as usize })
}

impl Cameras {
    /// `look`: the seed of materials and lights; `None`: the house's own.
    pub(super) fn new(scene: &Scene, look: Option<u64>, size: Size) -> Cameras {
        let look = look.map_or_else(Look::own, Look::randomised);
        Cameras { model: Arc::new(Model::new(scene, &look)), size }
    }

    pub(super) fn pictures(&self, sim: &Sim) -> Vec<Picture> {
        RENDERER.with_borrow_mut(|kept| {
            let renderer = match kept.take().filter(|renderer| renderer.size() == self.size) {
                Some(renderer) => kept.insert(renderer),
                None => kept.insert(Renderer::new(self.size)),
            };
            let cameras = [(Eye::Navigation, "navigation"), (Eye::Manipulation, "manipulation")];
            cameras.map(|(eye, camera)| self.picture(renderer, sim, eye, camera)).into()
        })
    }

    fn picture(&self, renderer: &mut Renderer, sim: &Sim, eye: Eye, camera: &'static str) -> Picture {
        renderer.draw(&self.model, sim, eye);
        let mut rgb = Vec::with_capacity(3 * self.size.pixels());
        renderer.rgb(&mut rgb);
        Picture { camera, width: self.size.width as u32, height: self.size.height as u32, rgb }
    }
}

/// What is told beside the pictures: how the arm stands, what became of the last action; nothing of what is seen.
pub(super) fn words(episode: &Episode, proprioception: &[String]) -> String {
    let mut words = proprioception.to_vec();
    if let Some((action, worked)) = episode.last {
        words.extend(["did".to_string(), action.name().to_string(), if worked { "ok" } else { "stuck" }.to_string()]);
    }
    words.extend(["<image>".to_string(), "<image>".to_string()]);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::Fetch;
    use crate::{Houses, Kind as _, Picture, Task, World};

    fn fetch(settings: &str) -> Result<Fetch, String> {
        Fetch::new(true, &settings.parse().unwrap(), Houses { generated: 64, ..Houses::default() })
    }

    fn world(kind: &Fetch, task: &Task) -> Box<dyn World> {
        let scene = kind.scene(task).unwrap().unwrap();
        kind.start(task, Some(&scene.bytes)).unwrap()
    }

    fn played(kind: &Fetch, task: &Task) -> Vec<Vec<Picture>> {
        let mut world = world(kind, task);
        ["rotate_right", "move_ahead", "move_arm_out", "move_arm_up", "rotate_left_small"]
            .map(|action| {
                world.act(action).unwrap();
                world.pictures()
            })
            .into()
    }

    #[test]
    fn two_cameras_are_two_pictures_and_the_same_seed_and_actions_give_the_same_bytes() {
        let kind = fetch("width = 96\nheight = 56").unwrap();
        let task = kind.sample(7, None).unwrap();
        let turns = played(&kind, &task);
        assert_eq!(turns, played(&kind, &task));
        for pictures in &turns {
            let [navigation, manipulation] = pictures.as_slice() else { panic!("{} pictures", pictures.len()) };
            assert_eq!((navigation.camera, manipulation.camera), ("navigation", "manipulation"));
            assert_eq!((navigation.width, navigation.height, navigation.rgb.len()), (96, 56, 3 * 96 * 56));
            assert_ne!(navigation.rgb, manipulation.rgb);
        }
        assert_ne!(turns[0], turns[1]);
        let told = world(&kind, &task).observe();
        assert_eq!(told.matches("<image>").count(), 2);
        assert!(!told.contains("nav") && !told.contains("unseen"), "{told} tells what is to be seen");
    }

    #[test]
    fn training_looks_vary_and_held_out_ones_are_the_houses_own() {
        let kind = fetch("width = 48\nheight = 28").unwrap();
        assert!((0..4).all(|seed| kind.sample(seed, None).unwrap().json.contains("\"look\"")));
        assert!(!kind.held_out(1).unwrap().json.contains("\"look\""));
        let plain = fetch("randomise = false").unwrap();
        assert!(!plain.sample(1, None).unwrap().json.contains("\"look\""));
    }

    #[test]
    fn sizes_out_of_range_are_refused_by_name() {
        assert!(fetch("width = 4").err().unwrap().contains("width is 4: allowed is 16 to 1024"));
    }
}
