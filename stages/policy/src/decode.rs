//! Single tokens of running sequences, by the GPU's decoder.
//!
//! In: sequences whose last token was sampled. Out: each with one more. Where a request asks for no more than a temperature and the
//! engine's bans, the GPU samples; the scores of others come to the host and are sampled there.

use crate::cache::DeviceCache;
use crate::cuda::{Decoder, Row, Sampling};
use crate::drawing::sample_row;
use crate::init::unit;
use crate::model::Model;
use crate::params::LogprobsMode;
use crate::scheduler::{Running, Slice};
use crate::{Result, SamplingParams};
use rand_chacha::ChaCha8Rng;

/// What the GPU samples by, and the random numbers after it.
pub(crate) struct Simple {
    pub(crate) sampling: Sampling,
    pub(crate) rng: ChaCha8Rng,
}

impl Simple {
    /// None where a request asks for more than the GPU does.
    pub(crate) fn of(running: &Running, banned: &[u32]) -> Option<Simple> {
        let params = &running.request.sampling;
        if !is_simple(params, running.reply().len(), banned) {
            return None;
        }
        let mut rng = running.rng.clone();
        let draw = if params.temperature > 0.0 { unit(&mut rng) } else { 0.0 };
        let sampling = Sampling { temperature: params.temperature.max(0.0), draw, obey: params.ban };
        Some(Simple { sampling, rng })
    }
}

/// Whether temperature and bans are all there is to it.
fn is_simple(params: &SamplingParams, said: usize, banned: &[u32]) -> bool {
    let greedy = params.temperature <= 0.0;
    let by_id = params.has_penalties() || !params.logit_bias.is_empty() || !params.allowed.is_empty() || !params.bad_words.is_empty();
    // The log-probability of the very score: the same only where nothing changes scores.
    let raw = params.logprobs_mode == LogprobsMode::Raw;
    let unchanged = (greedy || params.temperature == 1.0) && (banned.is_empty() || !params.ban);
    (greedy || !params.filters()) && !by_id && said >= params.min_tokens as usize && params.top_logprobs.is_none() && (!raw || unchanged)
}

/// One step of at most [`Decoder::rows`] sequences.
///
/// # Errors
/// [`crate::Error::Cuda`].
pub(crate) fn step(
    decoder: &mut Decoder,
    version: u64,
    model: &Model,
    cache: &DeviceCache,
    running: &mut [Running],
    slices: &[Slice],
    banned: &[u32],
) -> Result<()> {
    let simple: Vec<Option<Simple>> = slices.iter().map(|slice| Simple::of(&running[slice.index], banned)).collect();
    let row = |(slice, simple): (&Slice, &Option<Simple>)| {
        let sequence = &running[slice.index];
        let last = sequence.computed;
        Row {
            token: sequence.tokens[last],
            position: sequence.position(last)[0],
            length: last + 1,
            pages: &sequence.pages,
            sampling: simple.as_ref().map(|simple| simple.sampling).unwrap_or_default(),
        }
    };
    let rows: Vec<Row<'_>> = slices.iter().zip(&simple).map(row).collect();
    let drawn = decoder.step(version, model, cache, &rows)?;
    for (at, ((slice, simple), drawn)) in slices.iter().zip(simple).zip(drawn).enumerate() {
        let sequence = &mut running[slice.index];
        sequence.computed += 1;
        let token = match simple {
            Some(simple) => {
                sequence.rng = simple.rng;
                drawn.token()
            }
            None => {
                let mut rng = sequence.rng.clone();
                let token = sample_row(sequence, &mut decoder.scores(at)?, banned, &mut rng);
                sequence.rng = rng;
                token
            }
        };
        match token {
            Some(token) => sequence.push(token),
            None => sequence.broken = true,
        }
    }
    Ok(())
}
