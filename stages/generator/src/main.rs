//! The generator's program: the stage of the library with the policy's own engine, or the scripted one.

mod builtin;

use generator::{Engine, Files, Generator, Scripted};
use kit::stage::Identity;
use schemas::pipeline::Engine as EngineName;

fn main() -> std::process::ExitCode {
    kit::main("generator", |identity| {
        let pipeline = identity.clone();
        let make = move |files: &Files| make(&pipeline, files);
        Ok(Box::new(Generator::new(identity, Box::new(make))))
    })
}

fn make(identity: &Identity, files: &Files) -> Result<Box<dyn Engine>, String> {
    let pipeline = &identity.pipeline;
    match pipeline.generator.engine {
        EngineName::Builtin => Ok(Box::new(builtin::Builtin::new(pipeline, files)?)),
        EngineName::Scripted => {
            let world = &pipeline.world;
            let kind = worlds::kind(&world.name, world.pictures, &world.settings, worlds::Houses::default())?;
            let actions = kind.actions().iter().map(|a| a.name.to_string()).collect();
            Ok(Box::new(Scripted::new(files.context.clone(), pipeline.prompt.clone(), actions)?))
        }
    }
}
