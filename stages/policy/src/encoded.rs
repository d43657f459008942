//! What a frozen encoder made of pictures, kept by digest within a bound; the longest unused goes first.
//!
//! Shared by a model's aliases, and by versions of a policy whose encoders are the same: none of them can move it.

use crate::picture::Digest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::Tensor;

/// Bytes of what is kept.
const LIMIT: usize = 256 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// `[tokens, states * width]`, and when it was last asked for.
    features: BTreeMap<Digest, (Tensor, u64)>,
    by_use: BTreeMap<u64, Digest>,
    clock: u64,
    bytes: usize,
    limit: usize,
    /// Pictures that were encoded.
    seen: u64,
}

impl Default for Encoded {
    fn default() -> Encoded {
        Encoded::within(LIMIT)
    }
}

impl Encoded {
    fn within(limit: usize) -> Encoded {
        Encoded { kept: Arc::new(Mutex::new(Kept { limit, ..Kept::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A thread that failed left a whole map behind: each change of it is complete before anything can fail.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture's features, if they are kept.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Tensor> {
        let mut guard = self.lock();
        let kept = &mut *guard;
        let (features, used) = kept.features.get_mut(digest)?;
        kept.clock += 1;
        kept.by_use.remove(used);
        *used = kept.clock;
        kept.by_use.insert(kept.clock, *digest);
        Some(features.shallow_clone())
    }

    pub(crate) fn keep(&self, digest: Digest, features: &Tensor) {
        let mut guard = self.lock();
        let kept = &mut *guard;
        kept.clock += 1;
        kept.seen += 1;
        kept.bytes += size(features);
        kept.by_use.insert(kept.clock, digest);
        if let Some((before, used)) = kept.features.insert(digest, (features.shallow_clone(), kept.clock)) {
            kept.by_use.remove(&used);
            kept.bytes -= size(&before);
        }
        while kept.bytes > kept.limit {
            let Some((_, oldest)) = kept.by_use.pop_first() else { break };
            if let Some((gone, _)) = kept.features.remove(&oldest) {
                kept.bytes -= size(&gone);
            }
        }
    }

    /// Pictures that were encoded so far.
    #[cfg(test)]
    pub(crate) fn seen(&self) -> u64 {
        self.lock().seen
    }
}

fn size(features: &Tensor) -> usize {
    features.numel() * features.kind().elt_size_in_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_longest_unused_goes_first_and_aliases_share() {
        let encoded = Encoded::within(3 * 40);
        let features = || Tensor::zeros([10], (Kind::Float, Device::Cpu));
        for digest in 0..3 {
            encoded.keep([digest; 32], &features());
        }
        let alias = encoded.clone();
        assert!(alias.get(&[0; 32]).is_some());
        alias.keep([9; 32], &features());
        assert!(encoded.get(&[1; 32]).is_none(), "the longest unused");
        assert!([0, 2, 9].into_iter().all(|digest| encoded.get(&[digest; 32]).is_some()));
        encoded.keep([9; 32], &features());
        assert_eq!(encoded.lock().bytes, 120);
        assert_eq!(encoded.seen(), 5);
        encoded.keep([7; 32], &Tensor::zeros([1000], (Kind::Float, Device::Cpu)));
        let kept = encoded.lock();
        assert_eq!((kept.bytes, kept.features.len()), (0, 0), "what is larger than the bound is not kept");
    }
}
