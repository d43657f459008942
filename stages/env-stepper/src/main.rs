//! The env-stepper's program.

use env_stepper::{Options, STAGE, Stepper, alone};
use kit::clap::{Arg, ArgAction, value_parser};
use std::process::ExitCode;

fn main() -> ExitCode {
    let slots = Arg::new("slots").long("slots").value_name("N").value_parser(value_parser!(u32));
    let alone = Arg::new("alone").long("alone").action(ArgAction::SetTrue).hide(true);
    let program = kit::Program::new(STAGE).arg(slots.help("Rollouts side by side [default: the pipeline's stages.slots]")).arg(alone);
    program.run(|identity, matches| {
        let world = &identity.pipeline.world;
        let kind = worlds::kind(&world.name, world.pictures, &world.settings, worlds::Houses::default()).map_err(anyhow::Error::msg)?;
        let kind = if world.blind { worlds::blind(kind) } else { kind };
        let mut options =
            Options { slots: matches.get_one("slots").copied().unwrap_or(identity.pipeline.stages.slots), ..Options::default() };
        if matches.get_flag("alone") {
            options.slots = 1;
            options.alone = Some(alone::order_from_parent()?);
        } else {
            let program = std::env::current_exe()?;
            options.alone_command = alone::command(&program.to_string_lossy(), std::env::args().skip(1));
        }
        Ok(Box::new(Stepper::new(&identity, kind, options)))
    })
}
