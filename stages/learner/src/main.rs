//! The learner's program: the stage of the library with the policy crate's trainer.

mod gallery;
mod torch;

use learner::Learner;

fn main() -> std::process::ExitCode {
    kit::main("learner", |identity| {
        let maker = torch::Torch::new(identity.pipeline.clone());
        Ok(Box::new(Learner::new(identity, maker)))
    })
}
