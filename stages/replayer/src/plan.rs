//! What of a store is published, in which order and under which names. Pure.
//!
//! Expert episodes go out in the order of their numbers, groups in the order of theirs. Where a learner asks for more than
//! there is, the first come again, under new names: another pass over the data.

use schemas::pipeline::OfflineConfig;
use schemas::{End, EpisodeId, Mode, PolicyPin, Split};
use std::collections::BTreeMap;
use store::Summary;

/// What there is to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Episodes to imitate.
    pub experts: Vec<EpisodeId>,
    /// Whole groups of the policy's, members in order.
    pub groups: Vec<Vec<EpisodeId>>,
}

impl Plan {
    /// `mode`: of which expert episodes are wanted, the expert's own or those that teach the format.
    pub fn new(config: &OfflineConfig, mode: Mode, rows: &[Summary]) -> Plan {
        let played = || rows.iter().filter(|row| row.reason.is_played() && row.turns > 0);
        let is_imitated = |row: &&Summary| match row.mode {
            Mode::Expert | Mode::Format => row.mode == mode && (row.success || !config.success),
            Mode::Policy => config.policy && mode == Mode::Expert && row.success,
            Mode::Dagger => false,
        };
        let mut experts: Vec<EpisodeId> = played().filter(is_imitated).map(|row| row.id).collect();
        experts.sort_by_key(|id| (id.split != Split::Expert, *id));
        let mut members: BTreeMap<u64, BTreeMap<u32, &Summary>> = BTreeMap::new();
        for row in played().filter(|row| row.mode == Mode::Policy && row.id.split == Split::Train) {
            members.entry(row.group).or_default().insert(row.member, row);
        }
        let is_whole = |group: &BTreeMap<u32, &Summary>| group.values().all(|row| row.group_size as usize == group.len());
        let groups = members.into_values().filter(is_whole).map(|group| group.values().map(|row| row.id).collect()).collect();
        Plan { experts, groups }
    }
}

/// Where the next trajectory is taken from, and what it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub expert: u64,
    pub group: u64,
    /// Of the policy's split.
    pub train: u64,
}

/// Makes a recorded episode one to imitate, under another name.
pub fn as_expert(mut end: End, number: u64) -> End {
    if end.episode.mode == Mode::Policy {
        end.episode.mode = Mode::Expert;
    }
    end.episode.group = number;
    (end.episode.member, end.episode.group_size) = (0, 1);
    rename(end, EpisodeId { split: Split::Expert, number })
}

/// Makes a recorded member of a group one of another group. Its tokens count as sampled by `version`: how old they are is
/// counted in the learner's own versions, of which the recorded ones are none. Their log-probabilities stay.
pub fn as_member(mut end: End, group: u64, number: u64, version: u64) -> End {
    end.episode.group = group;
    for span in end.segments.iter_mut().flat_map(|segment| &mut segment.turns) {
        if let Some(tokens) = span.versions.iter().map(|(_, count)| *count).reduce(|a, b| a + b) {
            span.versions = vec![(version, tokens)];
        }
    }
    end.turns.iter_mut().for_each(|turn| turn.version = version);
    rename(end, EpisodeId { split: Split::Train, number })
}

fn rename(mut end: End, id: EpisodeId) -> End {
    end.note = format!("recorded as {}", end.episode.id);
    end.episode.id = id;
    end.episode.policy = PolicyPin::Latest;
    (end.episode.epoch, end.episode.validates) = (0, 0);
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    #[test]
    fn versions_become_the_learners_own_and_cover_as_many_tokens() {
        let mut end = End::example();
        end.segments[0].turns[0].versions = vec![(3, 1), (9, 1)];
        let again = as_member(end.clone(), 4, 17, 2);
        assert_eq!(again.segments[0].turns[0].versions, [(2, 2)]);
        assert_eq!((again.episode.group, again.id().to_string().as_str(), again.note.as_str()), (4, "train.17", "recorded as train.17"));
        assert_eq!(again.segments[0].logprobs, end.segments[0].logprobs);
    }

    #[test]
    fn the_policys_own_episode_is_imitated_as_the_experts() {
        let again = as_expert(End::example(), 5);
        assert_eq!((again.episode.mode, again.id().to_string().as_str(), again.episode.group_size), (Mode::Expert, "expert.5", 1));
    }
}
