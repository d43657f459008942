//! Pictures that were trained, cut into patches, by digest and within a bound: episodes of the window come again.

use context::ImageSettings;
use context::image::Rgb;
use learner::tokens::Shown;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes of patches that are kept.
const LIMIT: usize = 256 << 20;

#[derive(Clone)]
struct Cut {
    grid: [u32; 3],
    patches: Arc<[u8]>,
}

pub(crate) struct Gallery {
    settings: ImageSettings,
    levels: policy::Levels,
    cut: BTreeMap<String, Cut>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Gallery {
    pub(crate) fn new(settings: ImageSettings) -> Gallery {
        let levels = policy::Levels(Arc::new(settings.levels()));
        Gallery { settings, levels, cut: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    /// The picture as the trainer takes it.
    ///
    /// # Errors
    /// A picture that is broken, or has another number of tokens than stand for it.
    pub(crate) fn cut(&mut self, shown: &Shown) -> Result<policy::Picture, String> {
        let wrong = |what: String| format!("picture {}: {what}", shown.digest);
        let Cut { grid, patches } = match self.cut.get(&shown.digest) {
            Some(cut) => cut.clone(),
            None => {
                let cut = Rgb::from_png(&shown.png).and_then(|rgb| self.settings.patches(&rgb)).map_err(wrong)?;
                let cut = Cut { grid: cut.grid, patches: cut.bytes.into() };
                self.keep(&shown.digest, cut.clone());
                cut
            }
        };
        let tokens = self.settings.tokens(grid);
        if tokens != shown.len {
            return Err(wrong(format!("{} tokens stand for it, it has {tokens} tokens", shown.len)));
        }
        Ok(policy::Picture { offset: shown.offset, grid, patches, levels: self.levels.clone() })
    }

    fn keep(&mut self, digest: &str, cut: Cut) {
        self.bytes += cut.patches.len();
        self.cut.insert(digest.to_string(), cut);
        self.order.push_back(digest.to_string());
        while self.bytes > LIMIT {
            let Some(gone) = self.order.pop_front().and_then(|oldest| self.cut.remove(&oldest)) else { break };
            self.bytes -= gone.patches.len();
        }
    }
}
