//! How one reply is sampled: the parameters that vLLM's `SamplingParams` has, under the same names.

/// Which log-probabilities are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogprobsMode {
    /// Of the scores after temperature, penalties, bias and bans, before top-k, top-p and min-p: what a trainer can compute
    /// again from the tokens alone.
    #[default]
    Unfiltered,
    /// Of the very distribution that is drawn from, after every filter (vLLM's `processed_logprobs`).
    Processed,
    /// Of the model's scores as they are (vLLM's `raw_logprobs`).
    Raw,
}

/// How one reply is sampled. Greedy where `temperature` is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    pub seed: u64,
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probabilities reach this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many best tokens, and those that equal the last of them; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Scores of ids in the prompt or the reply are divided by this where positive, else multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from the score of an id for each time it is in the reply.
    pub frequency_penalty: f32,
    /// Taken from the score of an id that is in the reply.
    pub presence_penalty: f32,
    /// Added to the scores of ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// Only these ids may be sampled; empty allows all.
    pub allowed: Vec<u32>,
    /// Sequences of ids that may not appear: the last id of one is banned where those before it end the reply so far.
    pub bad_words: Vec<Vec<u32>>,
    /// Whether the engine's own banned ids hold for this request.
    pub ban: bool,
    /// Until then no stop id is sampled, and no stop text should be looked for.
    pub min_tokens: u32,
    pub max_tokens: u32,
    /// Also give the log-probabilities of this many best ids, and the rank of the sampled one.
    pub top_logprobs: Option<u32>,
    /// Also give each prompt token's log-probability, with this many best ids.
    pub prompt_logprobs: Option<u32>,
    pub logprobs_mode: LogprobsMode,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            seed: 0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: vec![],
            allowed: vec![],
            bad_words: vec![],
            ban: true,
            min_tokens: 0,
            max_tokens: 16,
            top_logprobs: None,
            prompt_logprobs: None,
            logprobs_mode: LogprobsMode::Unfiltered,
        }
    }
}

impl From<&schemas::Sampling> for SamplingParams {
    fn from(s: &schemas::Sampling) -> Self {
        SamplingParams {
            seed: s.seed,
            temperature: s.temperature,
            top_p: s.top_p,
            top_k: s.top_k,
            min_p: s.min_p,
            max_tokens: s.max_tokens,
            ..SamplingParams::default()
        }
    }
}

impl SamplingParams {
    /// Whether the scores are changed by what has been said so far, or by ids.
    pub(crate) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Whether some ids lose all probability after temperature.
    pub(crate) fn filters(&self) -> bool {
        self.top_p < 1.0 || self.top_k > 0 || self.min_p > 0.0
    }
}
