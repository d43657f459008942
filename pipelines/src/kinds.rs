//! The pipeline's kind of world, with the houses it plays in.

use anyhow::Result;
use schemas::pipeline::Pipeline;
use std::sync::Arc;

/// Makes the kind that the scene-loader would make, so that what is checked here is what is run there.
pub(crate) fn kind(pipeline: &Pipeline) -> Result<Arc<dyn worlds::Kind>> {
    scene_loader::kind(pipeline).map_err(|error| anyhow::anyhow!("{error}"))
}
