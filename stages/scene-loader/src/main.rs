//! The scene-loader's program.

fn main() -> std::process::ExitCode {
    kit::main(scene_loader::STAGE, |identity| {
        let kind = scene_loader::kind(&identity.pipeline)?;
        Ok(Box::new(scene_loader::Loader::new(&identity, kind)))
    })
}
