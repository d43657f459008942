//! Compiled scenes by digest, a bounded number of them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of compiled scenes that a stepper keeps.
const KEPT_BYTES: usize = 32 << 20;

/// A cache that forgets what was used longest ago.
#[derive(Debug, Default)]
pub(crate) struct Scenes {
    kept: BTreeMap<String, (u64, Arc<[u8]>)>,
    bytes: usize,
    uses: u64,
}

impl Scenes {
    pub(crate) fn get(&mut self, digest: &str) -> Option<Arc<[u8]>> {
        self.uses += 1;
        let (used, scene) = self.kept.get_mut(digest)?;
        *used = self.uses;
        Some(Arc::clone(scene))
    }

    pub(crate) fn put(&mut self, digest: String, bytes: Vec<u8>) {
        self.uses += 1;
        self.bytes += bytes.len();
        if let Some((_, old)) = self.kept.insert(digest.clone(), (self.uses, bytes.into())) {
            self.bytes -= old.len();
        }
        while self.bytes > KEPT_BYTES && self.kept.len() > 1 {
            let oldest = self.kept.iter().filter(|(d, _)| **d != digest).min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(d, _)| d.clone()) else { break };
            if let Some((_, gone)) = self.kept.remove(&oldest) {
                self.bytes -= gone.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_the_newest_stay() {
        let mut scenes = Scenes::default();
        for number in 0..20 {
            scenes.put(number.to_string(), vec![0; 4 << 20]);
            assert!(scenes.get("0").is_some(), "used each time");
        }
        assert!(scenes.bytes <= KEPT_BYTES);
        assert!(scenes.get("19").is_some() && scenes.get("5").is_none());
    }
}
