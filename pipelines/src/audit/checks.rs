//! The checks: facts in, verdicts out. Pure.

use super::Check;
use super::facts::Facts;
use schemas::{EpisodeId, Mode, Split, Use};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use store::Summary;

/// Examples that a failed check names of each kind of breach.
const EXAMPLES: usize = 3;
/// Returns of one group that differ by less are equal.
const SAME_RETURN: f32 = 1e-4;

/// Breaches by kind.
#[derive(Default)]
struct Breaches {
    kinds: BTreeMap<String, Vec<String>>,
}

impl Breaches {
    fn add(&mut self, kind: impl Into<String>, example: impl Display) {
        self.kinds.entry(kind.into()).or_default().push(example.to_string());
    }

    /// The check that found them, or, where there are none, `looked_at`.
    fn into_check(self, name: &'static str, looked_at: String) -> Check {
        let tell = |(kind, examples): (&String, &Vec<String>)| {
            let more = if examples.len() > EXAMPLES { ", …" } else { "" };
            format!("{kind}: {} ({}{more})", examples.len(), examples[..examples.len().min(EXAMPLES)].join(", "))
        };
        let told: Vec<String> = self.kinds.iter().map(tell).collect();
        Check { name, outcome: if told.is_empty() { Ok(looked_at) } else { Err(told.join("; ")) } }
    }
}

/// Every check.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        one_end(facts),
        dense(facts),
        ends_recorded(facts),
        turns_agree(facts),
        one_use(facts),
        uses_agree(facts),
        groups_whole(facts),
        versions_rise(facts),
        rows_name_versions(facts),
        tokens_agree(facts),
    ];
    if !facts.pictures.is_empty() {
        checks.push(pictures_whole(facts));
    }
    checks
}

/// Every picture that a segment shows is in the record, and its bytes are what its digest says.
fn pictures_whole(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let mut looked_at = 0;
    for (id, found) in &facts.pictures {
        match found {
            Ok(count) => looked_at += count,
            Err(what) => breaches.add("episodes whose pictures are not those that were shown", format!("{id}: {what}")),
        }
    }
    breaches.into_check("pictures are those that were shown", format!("{looked_at} of the newest {} episodes", facts.pictures.len()))
}

/// Each episode has one row.
fn one_end(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let mut seen = BTreeSet::new();
    for row in &facts.rows {
        if !seen.insert(row.id) {
            breaches.add("episodes with more than one trajectory", row.id);
        }
    }
    breaches.into_check("each episode has one end", format!("{} trajectories", facts.rows.len()))
}

/// Episode numbers of each split have no gap, and reach as far as the scene-loader has published.
fn dense(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let (mut looked_at, mut given_up) = (Vec::new(), 0);
    for split in Split::ALL {
        let numbers: BTreeSet<u64> = facts.rows.iter().filter(|row| row.id.split == split).map(|row| row.id.number).collect();
        let beyond = numbers.last().map_or(0, |last| last + 1);
        let published = facts.published.as_ref().and_then(|by_split| by_split.get(&split).copied());
        if let Some(published) = published
            && beyond > published
        {
            breaches.add("episodes that were never published", EpisodeId { split, number: beyond - 1 });
        }
        // While a run goes on, episodes that were published later may end earlier.
        if facts.finished {
            let all = 0..published.unwrap_or(beyond);
            let (lost, missing): (Vec<u64>, Vec<u64>) =
                all.filter(|number| !numbers.contains(number)).partition(|number| *number < facts.start.of(split));
            missing.iter().for_each(|&number| breaches.add("episodes without an end", EpisodeId { split, number }));
            given_up += lost.len();
        }
        looked_at.push(match published {
            Some(published) => format!("{split} {} of {published}", numbers.len()),
            None => format!("{split} {}", numbers.len()),
        });
    }
    if given_up > 0 {
        looked_at.push(format!("{given_up} numbers given up when the broker lost its record"));
    }
    let note = if facts.finished { "" } else { "; the run is not finished, gaps are not looked for" };
    breaches.into_check("episode numbers are dense", format!("{}{note}", looked_at.join(", ")))
}

/// No end of a finished run waits for a recorder.
///
/// The stream may have stored more ends than there are trajectories, and that is no breach: a stepper that dies between
/// storing an end and acking its episode has the episode run again, and once all sinks have acked the first end the stream
/// has room for a second, which every sink drops. That no end is lost is seen by the episode numbers, which have no gap.
fn ends_recorded(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let rows = facts.rows.len() as u64;
    let mut looked_at = format!("{rows} trajectories");
    if let Some(ends) = &facts.ends {
        if facts.finished && ends.unrecorded > 0 {
            breaches.add("ends that no recorder has committed", ends.unrecorded);
        }
        looked_at = format!("{looked_at}, {} ends in the stream's life, {} of them still to be recorded", ends.stored, ends.unrecorded);
    }
    breaches.into_check("every end is recorded", looked_at)
}

/// The two tables agree.
fn turns_agree(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let mut left: BTreeMap<EpisodeId, u64> = facts.turns.clone();
    for row in &facts.rows {
        let found = left.remove(&row.id).unwrap_or(0);
        if found != u64::from(row.turns) {
            breaches.add("trajectories with another number of turn rows than they say", format!("{}: {found} for {}", row.id, row.turns));
        }
    }
    left.keys().for_each(|id| breaches.add("episodes with turns and no trajectory", id));
    breaches.into_check("the two tables agree", format!("{} turns", facts.turns.values().sum::<u64>()))
}

/// Each trajectory has one use.
fn one_use(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let Some(file) = &facts.uses else {
        let nothing = facts.rows.is_empty() || !facts.finished;
        if !nothing {
            breaches.add("checkpoints of the learner", "none is there");
        }
        return breaches.into_check("each trajectory has one use", "no checkpoint yet".into());
    };
    let rows: BTreeSet<EpisodeId> = facts.rows.iter().map(|row| row.id).collect();
    let unused = rows.iter().filter(|id| file.uses.get(**id).is_none());
    let waiting: Vec<&EpisodeId> = unused.filter(|id| !was_given_up(facts, **id)).collect();
    if facts.finished {
        waiting.iter().for_each(|id| breaches.add("trajectories without a use", id));
    }
    let unrecorded = facts.ends.as_ref().map_or(0, |ends| ends.unrecorded);
    let unknown: Vec<EpisodeId> = file.uses.iter().map(|(id, _)| id).filter(|id| !rows.contains(id) && !was_given_up(facts, *id)).collect();
    // The learner may have used an end that the recorder still holds.
    if unknown.len() as u64 > unrecorded {
        unknown.iter().for_each(|id| breaches.add("uses without a trajectory", id));
    }
    let counted: BTreeMap<&str, u64> = file.uses.iter().fold(BTreeMap::new(), |mut counted, (_, used)| {
        *counted.entry(used.as_str()).or_insert(0) += 1;
        counted
    });
    let mut told: Vec<String> = counted.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if !waiting.is_empty() {
        told.push(format!("still to be used {}", waiting.len()));
    }
    breaches.into_check("each trajectory has one use", told.join(", "))
}

/// Whether an episode lies where the broker's record was lost: its end may have gone with it, before a recorder or the learner
/// had taken it in.
fn was_given_up(facts: &Facts, id: EpisodeId) -> bool {
    id.number < facts.start.of(id.split)
}

/// Members of the training groups, by group.
fn groups(facts: &Facts) -> BTreeMap<u64, Vec<&Summary>> {
    let mut groups: BTreeMap<u64, Vec<&Summary>> = BTreeMap::new();
    for row in facts.rows.iter().filter(|row| row.id.split == Split::Train) {
        groups.entry(row.group).or_default().push(row);
    }
    groups
}

/// A use fits how its episode ended.
fn uses_agree(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let Some(file) = &facts.uses else { return breaches.into_check("uses agree with the ends", "no checkpoint yet".into()) };
    let groups = groups(facts);
    let mut looked_at = 0;
    for row in &facts.rows {
        let Some(used) = file.uses.get(row.id) else { continue };
        looked_at += 1;
        // Groups of the other splits are numbered apart and are compared with nobody.
        let members = || groups.get(&row.group).filter(|_| row.id.split == Split::Train).into_iter().flatten();
        match used {
            Use::Trained if row.id.split == Split::Val => breaches.add("held-out episodes that were trained", row.id),
            Use::Trained if !row.reason.is_played() => {
                breaches.add(format!("trained, but ended as `{}`", row.reason.as_str()), row.id);
            }
            Use::Evaluated if row.id.split == Split::Train => breaches.add("training episodes that were only evaluated", row.id),
            Use::EqualRewards if members().any(|other| (other.total_reward - row.total_reward).abs() > SAME_RETURN) => {
                breaches.add("`equal_rewards` in a group whose returns differ", row.id);
            }
            Use::GroupBroken
                if row.id.split == Split::Train && members().all(|other| other.reason.is_played()) && is_complete(&groups, row) =>
            {
                breaches.add("`group_broken` in a group that was played in full", row.id);
            }
            Use::Stale if row.id.split != Split::Train => breaches.add("`stale` outside training", row.id),
            _ => {}
        }
    }
    breaches.into_check("uses agree with the ends", format!("{looked_at} uses"))
}

/// All members of the row's group are there.
fn is_complete(groups: &BTreeMap<u64, Vec<&Summary>>, row: &Summary) -> bool {
    groups.get(&row.group).is_some_and(|members| members.len() as u64 == u64::from(row.group_size))
}

/// A group that is trained by comparing its members is trained whole.
fn groups_whole(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let Some(file) = &facts.uses else { return breaches.into_check("trained groups are whole", "no checkpoint yet".into()) };
    let mut trained = 0;
    for (group, members) in groups(facts) {
        let compared = members.iter().any(|row| row.mode == Mode::Policy);
        let count = members.iter().filter(|row| file.uses.get(row.id) == Some(Use::Trained)).count();
        if !compared || count == 0 {
            continue;
        }
        trained += 1;
        let places: BTreeSet<u32> = members.iter().map(|row| row.member).collect();
        let size = members[0].group_size;
        if count != members.len() {
            breaches.add("groups trained in part", format!("group {group}: {count} of {}", members.len()));
        }
        let whole_is_known = group >= facts.start.group;
        if members.iter().any(|row| row.group_size != size)
            || (whole_is_known && !places.iter().copied().eq(0..size))
            || members.len() != places.len()
        {
            breaches.add("trained groups without all their members", format!("group {group}: {} of {size}", members.len()));
        }
        if members.iter().any(|row| (row.seed, &row.world) != (members[0].seed, &members[0].world)) {
            breaches.add("trained groups whose members do not share world and seed", format!("group {group}"));
        }
    }
    breaches.into_check("trained groups are whole", format!("{trained} groups"))
}

/// Versions count up: in the stream, and from checkpoint to checkpoint.
fn versions_rise(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    for pair in facts.policies.windows(2) {
        let [before, after] = pair else { continue };
        let step = format!("{} after {}", after.version, before.version);
        if after.version <= before.version {
            breaches.add("published versions that do not rise", &step);
        }
        if after.epoch < before.epoch {
            breaches.add("versions published by a holder that had lost its lease", &step);
        }
    }
    if let (Some(before), Some(after)) = (&facts.uses_before, &facts.uses) {
        let all = |file: &schemas::UsesFile| [file.version, file.batch, file.step, file.trained_tokens];
        if all(before).iter().zip(all(after)).any(|(before, after)| *before > after) {
            breaches.add("checkpoints that go back", format!("{:?} after {:?}", all(after), all(before)));
        }
        if before.uses.iter().any(|(id, used)| after.uses.get(id) != Some(used)) {
            breaches.add("checkpoints that forget or change a use", "the newest two");
        }
    }
    if let (true, Some(last), Some(file)) = (facts.finished, facts.policies.last(), &facts.uses)
        && last.version != file.version
    {
        breaches.add("newest versions that differ", format!("published {}, in the checkpoint {}", last.version, file.version));
    }
    let newest = facts.policies.last().map_or_else(|| "none".to_string(), |last| last.version.to_string());
    breaches.into_check("versions rise", format!("{} published, the newest is {newest}", facts.policies.len()))
}

/// No token was sampled by a version that was not published.
fn rows_name_versions(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let published: BTreeSet<u64> = facts.policies.iter().map(|policy| policy.version).collect();
    // A stream that was made anew has only what came after.
    let (first, last) = (published.first().copied().unwrap_or(0), published.last().copied().unwrap_or(0));
    let mut looked_at = 0;
    for row in &facts.rows {
        let Some((min, max)) = row.versions else { continue };
        looked_at += 1;
        let unknown = |version: u64| version > last || (version > first && !published.contains(&version));
        if min > max || unknown(min) || unknown(max) {
            breaches.add("trajectories sampled by versions that were never published", format!("{}: {min} to {max}", row.id));
        }
        if row.id.split == Split::Val && (min, max) != (row.validates, row.validates) {
            breaches.add("validation episodes played by another version", format!("{}: {min} to {max} for {}", row.id, row.validates));
        }
    }
    breaches.into_check("trajectories name their versions", format!("{looked_at} trajectories of the policy"))
}

/// Trained tokens by three records: rows, the checkpoint's counter, and the learner's log.
fn tokens_agree(facts: &Facts) -> Check {
    let mut breaches = Breaches::default();
    let Some(file) = &facts.uses else { return breaches.into_check("trained tokens add up", "no checkpoint yet".into()) };
    let trained = facts.rows.iter().filter(|row| file.uses.get(row.id) == Some(Use::Trained));
    let by_rows: u64 = trained.map(Summary::trained_tokens).sum();
    let unrecorded = facts.ends.as_ref().map_or(0, |ends| ends.unrecorded);
    let rows: BTreeSet<EpisodeId> = facts.rows.iter().map(|row| row.id).collect();
    let given_up = file.uses.iter().any(|(id, used)| used == Use::Trained && !rows.contains(&id) && was_given_up(facts, id));
    if by_rows != file.trained_tokens && unrecorded == 0 && !given_up {
        breaches.add("tokens of trained rows and of the checkpoint differ", format!("{by_rows} and {}", file.trained_tokens));
    }
    // A batch that was trained again after a crash has a later line, which counts.
    let lines: BTreeMap<u64, _> = facts.log.iter().filter(|line| line.batch <= file.batch).map(|line| (line.batch, line)).collect();
    for line in lines.values().filter(|line| line.sampled != line.trained + line.masked) {
        breaches.add("batches whose trained tokens are not the sampled less the masked", line.batch);
    }
    let mut looked_at = format!("{by_rows} tokens");
    if lines.len() as u64 == file.batch {
        let by_log: u64 = lines.values().map(|line| line.trained).sum();
        if by_log != file.trained_tokens {
            breaches.add("tokens of the log and of the checkpoint differ", format!("{by_log} and {}", file.trained_tokens));
        }
    } else {
        looked_at = format!("{looked_at}; the log has {} of {} batches, the others were cut off by a crash", lines.len(), file.batch);
    }
    breaches.into_check("trained tokens add up", looked_at)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
