//! What is trained on: token ids, which of them are trained, and labels beside them.

use crate::picture::{self, Picture};
use crate::{Error, ModelConfig, Result};

/// A run of trained tokens: `tokens[start..end]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
    /// Of each of its tokens. Imitation does not read it.
    pub advantage: f32,
}

/// A label that is trained after `tokens[..after]` and that no other token sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    pub after: u32,
    pub tokens: Vec<u32>,
    /// Weight of each of its tokens in the loss.
    pub weight: f32,
}

/// One segment of an episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// In rising order, not overlapping.
    pub trained: Vec<Span>,
    /// Log-probabilities under which the trained tokens were sampled, in order. Only [`crate::Trainer::reinforce`] reads them.
    pub old_logprobs: Vec<f32>,
    /// Only imitation reads them.
    pub branches: Vec<Branch>,
    /// In the order of their offsets.
    pub pictures: Vec<Picture>,
}

impl Sequence {
    /// Tokens in `trained`.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().map(|s| s.end.saturating_sub(s.start) as usize).sum()
    }

    /// Says what is wrong with the sequence, where something is.
    pub(crate) fn check(&self, index: usize, config: &ModelConfig, banned: &[bool]) -> Result<()> {
        let refuse = |reason: String| Err(Error::Sequence { index, reason });
        let mut free_from = 1;
        for Span { start, end, .. } in &self.trained {
            if *start < free_from || end < start || *end as usize > self.tokens.len() {
                let len = self.tokens.len();
                return refuse(format!("trained span {start}..{end} must lie in {free_from}..{len} (token 0 follows nothing, spans rise)"));
            }
            free_from = *end;
        }
        for branch in &self.branches {
            if branch.after == 0 || branch.after as usize > self.tokens.len() {
                return refuse(format!("a branch after {} tokens; allowed: 1 to {}", branch.after, self.tokens.len()));
            }
            if self.tokens.len() + branch.tokens.len() > config.max_position_embeddings {
                return refuse("a branch passes the positions that the model knows".into());
            }
        }
        if self.tokens.len() > config.max_position_embeddings {
            return refuse(format!("{} tokens; the model knows {} positions", self.tokens.len(), config.max_position_embeddings));
        }
        if let Err(reason) = picture::check(&self.pictures, &self.tokens, config.vision.as_ref()) {
            return refuse(reason);
        }
        if let Some(vision) = &config.vision {
            let inside = |after: u32| self.pictures.iter().any(|p| p.offset < after && (after as usize) < p.end(vision));
            if self.branches.iter().any(|b| inside(b.after)) {
                return refuse("a branch leaves from within a picture".into());
            }
            let ids = self.branches.iter().flat_map(|b| &b.tokens);
            let trained = self.trained.iter().flat_map(|s| &self.tokens[s.start as usize..s.end as usize]);
            if ids.chain(trained).any(|id| *id == vision.image_token_id) {
                return refuse("an image token is trained: it can never be sampled".into());
            }
        }
        let branches = self.branches.iter().flat_map(|b| &b.tokens);
        if let Some(id) = self.tokens.iter().chain(branches.clone()).find(|id| **id as usize >= config.vocab_size) {
            return refuse(format!("token {id} lies outside the vocabulary of {}", config.vocab_size));
        }
        let spans = self.trained.iter().flat_map(|s| &self.tokens[s.start as usize..s.end as usize]);
        match spans.chain(branches).find(|id| banned[**id as usize]) {
            Some(id) => refuse(format!("token {id} is trained but banned: it can never be sampled")),
            None => Ok(()),
        }
    }
}
