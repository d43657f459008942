//! `UsesFile`: what became of every trajectory so far, as the learner's checkpoint keeps it in `uses.msgpack`.
//!
//! The learner writes it with each checkpoint and reads it when it starts; `errand audit` compares it with the store.
//! Episode numbers are dense, so that a split's uses are one byte an episode: the whole file stays small, and the
//! committed set (which ends need no second use) is simply the bytes that are not 0.

use crate::{EpisodeId, Message, Split, Use};
use serde::{Deserialize, Serialize};

/// The file's name within a checkpoint folder.
pub const USES_FILE: &str = "uses.msgpack";

/// The highest episode number that [`Uses::set`] takes: a bound on memory, not a goal.
pub const MAX_EPISODE: u64 = 1 << 30;

/// A use's byte is its place here plus one. Only ever added to.
const CODES: [Use; 7] = [Use::Trained, Use::Evaluated, Use::Stale, Use::GroupBroken, Use::EqualRewards, Use::NonFinite, Use::Unused];

fn decode_use(code: u8) -> Option<Use> {
    CODES.get(usize::from(code).checked_sub(1)?).copied()
}

fn code_of(what: Use) -> u8 {
    CODES.iter().position(|known| *known == what).map_or(0, |place| place as u8 + 1)
}

/// Why a use was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsesError {
    #[error("episode {id} was used as `{}` and cannot be used as `{}` as well", before.as_str(), now.as_str())]
    Twice { id: EpisodeId, before: Use, now: Use },
    #[error("episode {id} is beyond the largest number that is kept, {MAX_EPISODE}; hint: episode numbers are dense from 0")]
    TooLarge { id: EpisodeId },
}

/// The use of each episode, by split; one byte an episode, 0 where there is none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    #[serde(with = "serde_bytes")]
    train: Vec<u8>,
    #[serde(with = "serde_bytes")]
    val: Vec<u8>,
    #[serde(with = "serde_bytes")]
    expert: Vec<u8>,
}

impl Uses {
    fn split(&self, split: Split) -> &Vec<u8> {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Expert => &self.expert,
        }
    }

    fn split_mut(&mut self, split: Split) -> &mut Vec<u8> {
        match split {
            Split::Train => &mut self.train,
            Split::Val => &mut self.val,
            Split::Expert => &mut self.expert,
        }
    }

    /// The episode's use; `None` where it has none yet.
    pub fn get(&self, id: EpisodeId) -> Option<Use> {
        let index = usize::try_from(id.number).ok()?;
        decode_use(*self.split(id.split).get(index)?)
    }

    /// Gives the episode its one use.
    ///
    /// # Errors
    /// [`UsesError::Twice`] where it has one (the same one too), [`UsesError::TooLarge`] beyond [`MAX_EPISODE`].
    pub fn set(&mut self, id: EpisodeId, now: Use) -> Result<(), UsesError> {
        if id.number > MAX_EPISODE {
            return Err(UsesError::TooLarge { id });
        }
        if let Some(before) = self.get(id) {
            return Err(UsesError::Twice { id, before, now });
        }
        let codes = self.split_mut(id.split);
        let index = id.number as usize;
        if codes.len() <= index {
            codes.resize(index + 1, 0);
        }
        codes[index] = code_of(now);
        Ok(())
    }

    /// Every episode that has a use, in order of split and number.
    pub fn iter(&self) -> impl Iterator<Item = (EpisodeId, Use)> + '_ {
        Split::ALL.into_iter().flat_map(move |split| {
            let codes = self.split(split).iter().enumerate();
            codes.filter_map(move |(number, code)| Some((EpisodeId { split, number: number as u64 }, decode_use(*code)?)))
        })
    }

    /// How many episodes have this use.
    pub fn count(&self, what: Use) -> u64 {
        self.iter().filter(|(_, found)| *found == what).count() as u64
    }

    /// How many episodes have a use.
    pub fn len(&self) -> u64 {
        self.iter().count() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// What the file `uses.msgpack` of a checkpoint holds, written by [`crate::encode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsesFile {
    /// The version of the weights in the same checkpoint.
    pub version: u64,
    /// Batches trained.
    pub batch: u64,
    /// Optimiser steps taken.
    pub step: u64,
    /// Trained tokens of the trajectories whose use is `trained`, each trajectory counted once however often it was
    /// passed over: replies of the policy (mode `policy`), labels (`dagger`), the expert's replies (`expert`, `format`).
    pub trained_tokens: u64,
    pub uses: Uses,
}

impl Message for UsesFile {
    const NAME: &'static str = "UsesFile";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 32;

    fn example() -> Self {
        let uses = Uses { train: vec![1, 5, 0, 4], val: vec![2], expert: vec![1, 7] };
        UsesFile { version: 3, batch: 2, step: 5, trained_tokens: 40, uses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(number: u64) -> EpisodeId {
        EpisodeId { split: Split::Train, number }
    }

    #[test]
    fn an_episode_has_one_use() {
        let mut uses = Uses::default();
        assert!(uses.is_empty());
        uses.set(train(0), Use::Trained).unwrap();
        uses.set(train(3), Use::Stale).unwrap();
        assert_eq!(uses.set(train(3), Use::Trained), Err(UsesError::Twice { id: train(3), before: Use::Stale, now: Use::Trained }));
        assert_eq!((uses.get(train(0)), uses.get(train(1)), uses.get(train(3))), (Some(Use::Trained), None, Some(Use::Stale)));
        assert_eq!((uses.len(), uses.count(Use::Stale), uses.count(Use::Unused)), (2, 1, 0));
        assert_eq!(uses.set(train(MAX_EPISODE + 1), Use::Trained), Err(UsesError::TooLarge { id: train(MAX_EPISODE + 1) }));
    }

    #[test]
    fn every_use_has_a_byte_of_its_own() {
        for (place, what) in CODES.into_iter().enumerate() {
            assert_eq!((code_of(what), decode_use(code_of(what))), (place as u8 + 1, Some(what)));
        }
        assert_eq!((decode_use(0), decode_use(8)), (None, None));
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        let file = UsesFile::example();
        let back: UsesFile = crate::decode(&crate::encode(&file)).unwrap();
        assert_eq!(back, file);
        let listed: Vec<String> = back.uses.iter().map(|(id, what)| format!("{id} {}", what.as_str())).collect();
        let expected =
            ["train.0 trained", "train.1 equal_rewards", "train.3 group_broken", "val.0 evaluated", "expert.0 trained", "expert.1 unused"];
        assert_eq!(listed, expected);
    }
}
