//! The robot's two cameras: pictures, depth and instance masks of a house, drawn in software.
//!
//! In: a household's [`Scene`](household::scene::Scene) and a [`look::Look`] make a [`Model`]; a [`Sim`] says where the robot
//! and the things that were moved are. Out: RGB rows, depth in metres, which thing each pixel shows. Pure: no files, no clock,
//! no threads. The same scene, look, state and size give the same bytes on every machine.

mod canvas;
mod draw;
mod light;
pub mod look;
mod mesh;
mod model;
pub mod optics;
pub mod pattern;
mod robot;
mod shade;
mod solids;
mod trim;
mod walls;

use canvas::Canvas;
use draw::{Actor, Painter};
use household::{sim::Sim, view::Eye};
pub use model::{Model, Pose};
pub use optics::{Size, View};

/// What a pixel shows, in a mask: walls, floors, ceilings and frames.
pub const STRUCTURE: u16 = 0;
/// What a pixel shows, in a mask: the robot itself. A thing is its position in the scene's things plus 1.
pub const ROBOT: u16 = u16::MAX;

/// Draws pictures of one size, one after another. Each thread has its own; a [`Model`] can be shared.
pub struct Renderer {
    painter: Painter,
}

impl Renderer {
    pub fn new(size: Size) -> Renderer {
        Renderer { painter: Painter::new(Canvas::new(size)) }
    }

    pub fn size(&self) -> Size {
        self.painter.canvas.size()
    }

    /// Draws what a camera of the robot sees. Read it with [`Renderer::rgb`], [`Renderer::depth`] and [`Renderer::masks`].
    pub fn draw(&mut self, model: &Model, sim: &Sim, eye: Eye) {
        let view = View::of(&sim.cameras[eye as usize], &sim.robot, self.size());
        let own = robot::bodies(&sim.robot, model);
        self.draw_view(model, Some(sim), &own, &view, false);
    }

    /// Draws a house from an eye of one's own choice, with the robot's whole body where there is one. `plan`: without
    /// ceilings and with every room, to be looked at from above.
    pub fn draw_from(&mut self, model: &Model, sim: Option<&Sim>, view: &View, plan: bool) {
        let own = sim.map(|sim| robot::whole(&sim.robot, model)).unwrap_or_default();
        let view = View { size: self.size(), ..*view };
        self.draw_view(model, sim, &own, &view, plan);
    }

    fn draw_view(&mut self, model: &Model, sim: Option<&Sim>, own: &[model::Body], view: &View, plan: bool) {
        let mut actors: Vec<Actor<'_>> = Vec::with_capacity(model.things.len() + 32);
        let own_room = sim.map_or(0, |sim| model.room_at([sim.robot.position.x as f32, sim.robot.position.z as f32]));
        for body in own {
            actors.push(Actor { body, pose: body.pose, owner: ROBOT, room: own_room });
        }
        for (number, body) in model.things.iter().enumerate() {
            let mut actor = Actor { body, pose: body.pose, owner: (number + 1).min(65_534) as u16, room: usize::from(body.room) };
            if let Some(sim) = sim
                && (sim.moved.contains_key(&number) || sim.held.contains(&number))
            {
                actor.pose = robot::carried(sim, number, &body.pose);
                actor.room = model.room_at([actor.pose.origin[0], actor.pose.origin[2]]);
            }
            actors.push(actor);
        }
        for body in model.trims.iter().flatten() {
            actors.push(Actor { body, pose: body.pose, owner: STRUCTURE, room: usize::from(body.room) });
        }
        self.painter.draw(model, &actors, view, plan);
    }

    /// The picture: `3 * width * height` bytes, red, green, blue, row by row from the top.
    pub fn rgb(&self, out: &mut Vec<u8>) {
        self.painter.canvas.colour(out);
    }

    /// Metres along the optical axis, row by row from the top; 0 where nothing was drawn.
    pub fn depth(&self, out: &mut Vec<f32>) {
        out.clear();
        out.extend(self.painter.canvas.inverse.iter().map(|&inverse| if inverse > 0.0 { 1.0 / inverse } else { 0.0 }));
    }

    /// What each pixel shows: [`STRUCTURE`], [`ROBOT`], or a thing's position in the scene plus 1.
    pub fn masks(&self, out: &mut Vec<u16>) {
        let canvas = &self.painter.canvas;
        out.clear();
        out.extend(canvas.faces.iter().map(|&face| canvas.shades[face as usize].owner));
    }
}

#[cfg(test)]
mod tests;
