//! Files for people and other programs: `validation.json`, `result.json`, and a line a batch in `learner.jsonl`.

use crate::checkpoint::{self, Error};
use crate::state::{Outcome, State};
use crate::validation::{self, Pass};
use crate::work::Place;
use serde_json::{Value, json};

/// Writes both files as the state has them.
pub(crate) fn write(place: &Place, state: &State) -> Result<(), Error> {
    let episodes = place.pipeline.episodes.validation;
    let complete: Vec<&Pass> = state.passes.iter().filter(|p| !p.lost && p.is_complete(episodes)).collect();
    let path = place.folder.join("validation.json");
    // A pass is added up once, when it is complete, and not with every checkpoint.
    let known = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).ok());
    if known.is_none_or(|known| known.len() != complete.len()) {
        let summaries: Vec<_> = complete.iter().map(|pass| validation::summarise(pass)).collect();
        checkpoint::write(&path, &pretty(&json!(summaries)))?;
    }
    checkpoint::write(&place.folder.join("result.json"), &pretty(&result(state, &complete)))
}

fn pretty(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("JSON values serialise to memory")
}

fn result(state: &State, complete: &[&Pass]) -> Value {
    let (first, last) = (complete.iter().find(|p| !p.last), complete.iter().rev().find(|p| p.last));
    let of = |pass: Option<&&Pass>| pass.filter(|_| state.finished).map(|pass| json!(validation::summarise(pass)));
    let gain = first.zip(last).filter(|_| state.finished).map(|(before, after)| json!(validation::gain(before, after)));
    json!({
        "finished": state.finished,
        "before": of(first),
        "after": of(last),
        "gain": gain,
        "trained_tokens": state.tokens.trained,
        "sampled_tokens": state.tokens.sampled,
        "masked_tokens": state.tokens.masked,
        "passed_tokens": state.passed_tokens,
        "steps": state.step,
        "batches": state.batch,
        "versions": state.ceiling,
        "uses": state.uses,
        "stale_by_100_tokens": state.stale_by_length,
        "seconds_by_phase": state.seconds_by_phase,
        "seconds_by_part": state.seconds_by_part,
    })
}

/// A batch's line: what `line` says, and what training it came to.
pub(crate) fn batch_line(state: &State, outcome: &Outcome, phase: &str, checkpoint_s: f64, line: Value) -> Value {
    let mut all = json!({
        "batch": state.batch,
        "step": state.step,
        "version": state.version,
        "phase": phase,
        "loss": outcome.loss,
        "held_out_loss": outcome.held_out_loss,
        "entropy": outcome.entropy,
        "kl_mismatch": outcome.kl_old,
        "clip_fraction": outcome.clip_fraction,
        "grad_norm": outcome.grad_norm,
        "episodes": outcome.uses.len(),
        "tokens_sampled": outcome.counts.sampled,
        "tokens_trained": outcome.counts.trained,
        "tokens_masked": outcome.counts.masked,
        "tokens_passed": outcome.passed_tokens,
        "train_s": outcome.train_s,
        "checkpoint_s": checkpoint_s,
    });
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), line) {
        all.extend(more);
    }
    all
}
