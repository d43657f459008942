//! Tokens that are drawn from the scores of one forward pass.
//!
//! In: the rows that a plan keeps. Out: the next token of each sequence that was computed to its end, and what its prompt's tokens
//! are worth where that is asked for; on the host, or as the GPU drew them.

use crate::cuda::Drawn;
use crate::decode::Simple;
use crate::plan::Plan;
use crate::sample::{self, Draw, TokenLogprob};
use crate::scheduler::Running;
use rand_chacha::ChaCha8Rng;

/// What is to be drawn for one sequence, and what was.
pub(crate) struct Drawing {
    index: usize,
    /// Row of the scores of the first wanted row, and the tokens before and after it.
    row: usize,
    from: usize,
    count: usize,
    ends: bool,
    rng: ChaCha8Rng,
    prompt: Vec<TokenLogprob>,
    token: Option<TokenLogprob>,
    broken: bool,
}

/// One for each sequence of which some row is wanted.
pub(crate) fn draws(plan: &Plan, running: &[Running]) -> Vec<Drawing> {
    let mut row = 0;
    let wanted = plan.spans.iter().filter(|span| !span.wanted.is_empty());
    wanted
        .map(|span| {
            let drawing = Drawing {
                index: span.index,
                row,
                from: span.past + span.wanted.start,
                count: span.wanted.len(),
                ends: span.ends,
                rng: running[span.index].rng.clone(),
                prompt: vec![],
                token: None,
                broken: false,
            };
            row += span.wanted.len();
            drawing
        })
        .collect()
}

impl Drawing {
    /// How the GPU draws this token; none where it cannot.
    pub(crate) fn simple(&self, running: &[Running], banned: &[u32]) -> Option<Simple> {
        let running = &running[self.index];
        let one = self.count == 1 && self.ends && running.request.sampling.prompt_logprobs.is_none();
        one.then(|| Simple::of(running, banned)).flatten()
    }

    pub(crate) fn take(&mut self, simple: &Simple, drawn: Drawn) {
        self.rng = simple.rng.clone();
        self.token = drawn.token();
        self.broken = self.token.is_none();
    }

    pub(crate) fn run(&mut self, running: &[Running], banned: &[u32], vocabulary: usize, read: &dyn Fn(usize, &mut [f32])) {
        let running = &running[self.index];
        let request = &running.request;
        let mut row = vec![0.0; vocabulary];
        if let Some(top) = request.sampling.prompt_logprobs {
            for at in 0..self.count {
                let next = self.from + at + 1;
                if next < running.prompt {
                    read(self.row + at, &mut row);
                    match sample::given(&row, running.tokens[next], top) {
                        Ok(token) => self.prompt.push(token),
                        Err(sample::NotFinite) => self.broken = true,
                    }
                }
            }
        }
        if self.ends && !self.broken {
            read(self.row + self.count - 1, &mut row);
            self.token = sample_row(running, &mut row, banned, &mut self.rng);
            self.broken = self.token.is_none();
        }
    }

    pub(crate) fn take_in(self, running: &mut [Running]) {
        let running = &mut running[self.index];
        running.rng = self.rng;
        running.broken |= self.broken;
        running.prompt_logprobs.extend(self.prompt);
        if let Some(token) = self.token {
            running.push(token);
        }
    }
}

/// A sequence's next token from a row of scores, which is used up; none where they are no numbers.
pub(crate) fn sample_row(running: &Running, row: &mut [f32], banned: &[u32], rng: &mut ChaCha8Rng) -> Option<TokenLogprob> {
    let (prompt, reply) = running.tokens.split_at(running.prompt);
    let request = &running.request;
    sample::sample(row, &Draw { params: &request.sampling, stop_ids: &request.stop_ids, banned, prompt, reply }, rng).ok()
}
