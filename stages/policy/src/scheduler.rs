//! Which requests are computed next, and where their keys and values lie. No tensor in it.
//!
//! In: requests, and what became of each computed slice. Out: copies to make in the arena, and slices of sequences to compute.
//! A request is admitted only when its prompt and all of `max_tokens` have room, so an admitted one never has to give up its
//! place; what stands idle between two turns is evicted first, the longest idle before the others.

use crate::kv::{Extent, Extents};
use crate::{Error, Request, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, VecDeque};

/// Tokens of one sequence in one slice, at most: bounds the attention mask.
pub(crate) const CHUNK: usize = 512;
/// In deterministic mode slices of a prompt start and end at multiples of this, so that their results can be kept.
pub(crate) const FIXED_CHUNK: usize = 64;
/// A shorter common start is computed again sooner than copied.
const SHARED: usize = 16;

/// A request that holds room in the arena.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) request: Request,
    /// Prompt, then what was sampled.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt: usize,
    /// Leading tokens whose keys and values are in the arena.
    pub(crate) computed: usize,
    pub(crate) room: Extent,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) rng: ChaCha8Rng,
    keep: bool,
}

/// A rollout's keys and values between two of its turns.
#[derive(Debug)]
struct Kept {
    tokens: Vec<u32>,
    version: u64,
    group: u64,
    room: Extent,
    /// When it was last used, in finished requests.
    used: u64,
}

/// Keys and values to copy within the arena, before anything is computed, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) len: usize,
}

/// The next `count` tokens of one running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    /// Longest sequence that the model knows positions for.
    pub(crate) max_len: usize,
    pub(crate) deterministic: bool,
    /// Whether a rollout's keys and values outlive a change of version.
    pub(crate) keep_kv: bool,
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    extents: Extents,
    waiting: VecDeque<(Request, bool)>,
    pub(crate) running: Vec<Running>,
    kept: BTreeMap<u64, Kept>,
    finished: u64,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits, capacity: usize) -> Scheduler {
        let extents = Extents::new(capacity);
        Scheduler { limits, extents, waiting: VecDeque::new(), running: vec![], kept: BTreeMap::new(), finished: 0 }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Tokens of the arena in use, and all of them.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.extents.capacity() - self.extents.free_tokens(), self.extents.capacity())
    }

    pub(crate) fn version_in_use(&self, version: u64) -> bool {
        self.running.iter().map(|r| &r.request).chain(self.waiting.iter().map(|(r, _)| r)).any(|r| r.version == version)
    }

    /// Takes a request, or says why it can never be answered.
    pub(crate) fn submit(&mut self, request: Request) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request { ticket: request.ticket, reason });
        let need = request.tokens.len() + request.sampling.max_tokens as usize;
        if request.tokens.is_empty() || request.sampling.max_tokens == 0 {
            return refuse("a prompt of at least 1 token and `max_tokens` of at least 1 are needed".into());
        }
        if need > self.limits.max_len {
            return refuse(format!("prompt and `max_tokens` are {need} tokens; the model knows {} positions", self.limits.max_len));
        }
        if need > self.extents.capacity() {
            let capacity = self.extents.capacity();
            return refuse(format!("prompt and `max_tokens` are {need} tokens; the cache holds {capacity}; hint: raise `kv_cache_mib`"));
        }
        self.waiting.push_back((request, true));
        Ok(())
    }

    /// Drops a rollout's keys and values, now or when its request is done.
    pub(crate) fn forget(&mut self, rollout: u64) {
        if let Some(kept) = self.kept.remove(&rollout) {
            self.extents.free(kept.room);
        }
        self.running.iter_mut().filter(|r| r.request.rollout == rollout).for_each(|r| r.keep = false);
        self.waiting.iter_mut().filter(|(r, _)| r.rollout == rollout).for_each(|(_, keep)| *keep = false);
    }

    /// Takes a request out, wherever it is. True if it was there.
    pub(crate) fn cancel(&mut self, ticket: u64) -> bool {
        if let Some(at) = self.waiting.iter().position(|(r, _)| r.ticket == ticket) {
            self.waiting.remove(at);
            return true;
        }
        match self.running.iter().position(|r| r.request.ticket == ticket) {
            Some(index) => {
                self.finish(index);
                true
            }
            None => false,
        }
    }

    /// Admits waiting requests, in the order in which they came, as far as there is room.
    pub(crate) fn admit(&mut self) -> Vec<Copy> {
        let mut copies = vec![];
        let mut at = 0;
        while at < self.waiting.len() && self.running.len() < self.limits.max_num_seqs {
            if self.sibling_comes(&self.waiting[at].0) {
                at += 1;
                continue;
            }
            let Some((request, keep)) = self.waiting.remove(at) else { break };
            if let Some(request) = self.place(request, keep, &mut copies) {
                self.waiting.insert(at, (request, keep));
                break;
            }
        }
        copies
    }

    /// Whether a member of the same group is computing the very start that this request needs, so that it is cheaper to wait.
    fn sibling_comes(&self, request: &Request) -> bool {
        let own = self.kept.get(&request.rollout).map_or(0, |k| self.usable(k, request));
        self.running.iter().any(|r| {
            let shared = self.shareable(&r.tokens[..r.prompt], &request.tokens);
            let same = r.request.group == request.group && r.request.version == request.version;
            same && r.computed < shared && shared >= own.max(r.computed) + 2 * SHARED
        })
    }

    /// Leading tokens of a request that need not be computed, given a sequence whose keys and values exist. The last token of
    /// a prompt is always computed: its output is what is sampled from.
    fn shareable(&self, computed: &[u32], tokens: &[u32]) -> usize {
        let common = computed.iter().zip(&tokens[..tokens.len() - 1]).take_while(|(a, b)| a == b).count();
        if self.limits.deterministic { common / FIXED_CHUNK * FIXED_CHUNK } else { common }
    }

    fn usable(&self, kept: &Kept, request: &Request) -> usize {
        let carries_over = self.limits.keep_kv && !self.limits.deterministic;
        if kept.version == request.version || carries_over { self.shareable(&kept.tokens, &request.tokens) } else { 0 }
    }

    /// Finds room for a request and starts it; gives it back where there is none yet.
    fn place(&mut self, request: Request, keep: bool, copies: &mut Vec<Copy>) -> Option<Request> {
        let need = request.tokens.len() + request.sampling.max_tokens as usize;
        let own = self.kept.remove(&request.rollout);
        let mut computed = own.as_ref().map_or(0, |k| self.usable(k, &request));
        let room = match self.room_for(need, own, computed, copies) {
            Ok(room) => room,
            Err(own) => {
                self.kept.extend(own.map(|k| (request.rollout, k)));
                return Some(request);
            }
        };
        computed = computed.min(room.1);
        let room = room.0;
        if let Some((from, len)) = self.donor(&request).filter(|(_, len)| *len >= computed + SHARED) {
            copies.push(Copy { from: from + computed, to: room.start + computed, len: len - computed });
            computed = len;
        }
        let rng = ChaCha8Rng::seed_from_u64(request.sampling.seed);
        let tokens = request.tokens.clone();
        self.running.push(Running { prompt: tokens.len(), tokens, computed, room, logprobs: vec![], rng, keep, request });
        None
    }

    /// Room for `need` tokens that holds the first `computed` of `own`: the room, and how many of them are still there.
    /// Gives `own` back where running requests hold too much.
    fn room_for(
        &mut self,
        need: usize,
        own: Option<Kept>,
        computed: usize,
        copies: &mut Vec<Copy>,
    ) -> std::result::Result<(Extent, usize), Option<Kept>> {
        let Some(mut own) = own else { return self.alloc(need).map(|room| (room, 0)).ok_or(None) };
        if self.extents.extend(&mut own.room, need) {
            return Ok((own.room, computed));
        }
        if let Some(room) = self.alloc(need) {
            if computed > 0 {
                copies.push(Copy { from: own.room.start, to: room.start, len: computed });
            }
            self.extents.free(own.room);
            return Ok((room, computed));
        }
        if !self.running.is_empty() {
            return Err(Some(own));
        }
        self.extents.free(own.room);
        self.alloc(need).map(|room| (room, 0)).ok_or(None)
    }

    /// Takes a run from the arena, with a quarter to spare while that costs nobody anything; else evicts what is idle.
    fn alloc(&mut self, need: usize) -> Option<Extent> {
        if let Some(room) = self.extents.alloc(need + need / 4).or_else(|| self.extents.alloc(need)) {
            return Some(room);
        }
        let idle: usize = self.kept.values().map(|k| k.room.len).sum();
        if self.extents.free_tokens() + idle < need {
            return None;
        }
        loop {
            let (&rollout, _) = self.kept.iter().min_by_key(|(_, kept)| kept.used)?;
            let kept = self.kept.remove(&rollout)?;
            self.extents.free(kept.room);
            if let Some(room) = self.extents.alloc(need) {
                return Some(room);
            }
        }
    }

    /// The member of the request's group that shares most with it: where its keys start, and how many tokens.
    fn donor(&self, request: &Request) -> Option<(usize, usize)> {
        let kept = self.kept.values().map(|k| (k.group, k.version, k.room.start, &k.tokens[..]));
        let running = self.running.iter().map(|r| (r.request.group, r.request.version, r.room.start, self.reusable(r)));
        kept.chain(running)
            .filter(|(group, version, _, _)| *group == request.group && *version == request.version)
            .map(|(_, _, start, tokens)| (start, self.shareable(tokens, &request.tokens)))
            .max_by_key(|(_, len)| *len)
    }

    /// The leading tokens of a sequence whose keys and values another request may build on. In deterministic mode those of
    /// whole slices of the prompt only: they are the same bits however a prompt goes on.
    fn reusable<'a>(&self, running: &'a Running) -> &'a [u32] {
        let whole = running.computed.min(running.prompt) / FIXED_CHUNK * FIXED_CHUNK;
        &running.tokens[..if self.limits.deterministic { whole } else { running.computed }]
    }

    /// What to compute next: every sequence that is sampling, then as much of the prompts as the budget allows.
    pub(crate) fn schedule(&self) -> Vec<Slice> {
        if self.limits.deterministic {
            let next = |r: &Running| {
                if r.computed < r.prompt { ((r.computed / FIXED_CHUNK + 1) * FIXED_CHUNK).min(r.prompt) } else { r.tokens.len() }
            };
            return self.running.iter().take(1).map(|r| Slice { index: 0, count: next(r) - r.computed }).collect();
        }
        let mut budget = self.limits.max_num_batched_tokens.max(1);
        let mut slices = vec![];
        let remaining = |r: &Running| r.tokens.len() - r.computed;
        for decoding in [true, false] {
            for (index, running) in self.running.iter().enumerate() {
                if (remaining(running) == 1) != decoding || budget == 0 {
                    continue;
                }
                let count = remaining(running).min(CHUNK).min(budget);
                budget -= count;
                slices.push(Slice { index, count });
            }
        }
        slices
    }

    /// Takes a finished sequence out; what it computed is kept for its rollout's next turn.
    pub(crate) fn finish(&mut self, index: usize) -> Running {
        let running = self.running.remove(index);
        self.finished += 1;
        let Request { rollout, group, version, .. } = running.request;
        let tokens = self.reusable(&running).to_vec();
        if running.keep && !tokens.is_empty() {
            let kept = Kept { tokens, version, group, room: running.room, used: self.finished };
            if let Some(old) = self.kept.insert(rollout, kept) {
                self.extents.free(old.room);
            }
        } else {
            self.extents.free(running.room);
        }
        running
    }
}
