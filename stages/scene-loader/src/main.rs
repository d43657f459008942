//! The scene-loader's program.

use scene_loader::{Loader, STAGE, kind_and_houses};
use std::process::ExitCode;

fn main() -> ExitCode {
    kit::main(STAGE, |identity| {
        let (kind, found) = kind_and_houses(&identity.pipeline).map_err(anyhow::Error::msg)?;
        for line in &found.named {
            tracing::warn!("house skipped: {line}");
        }
        if found.skipped > 0 {
            tracing::warn!("{} houses skipped in all", found.skipped);
        }
        Ok(Box::new(Loader::new(&identity, kind, found.skipped)))
    })
}
