//! The expert's episodes of a pipeline, without a broker: those that a run would order, under the same numbers.

use crate::plan::Rules;
use crate::state::Order;
use schemas::pipeline::Pipeline;
use schemas::{Episode, Mode};
use std::ops::Range;
use worlds::Kind;

/// An episode, and its compiled scene where it has one.
pub type Ordered = (Episode, Option<Vec<u8>>);

/// Gives the episodes of a pipeline's expert split.
pub struct Experts {
    rules: Rules,
}

impl Experts {
    pub fn new(pipeline: &Pipeline) -> Experts {
        Experts { rules: Rules::new(pipeline, vec![]) }
    }

    /// The episodes of these numbers.
    ///
    /// # Errors
    /// The world has no task for one of them: a line for people.
    pub fn episodes(&self, kind: &dyn Kind, numbers: Range<u64>) -> Result<Vec<Ordered>, String> {
        let count = numbers.end.saturating_sub(numbers.start) as u32;
        let order = Order::Expert { first: numbers.start, count, mode: Mode::Expert, epoch: 0 };
        let planned = self.rules.episodes(kind, &order)?;
        Ok(planned.into_iter().map(|planned| (planned.episode, planned.scene)).collect())
    }
}
