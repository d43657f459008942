//! Which requests are computed next, and in which pages their keys and values lie. No tensor in it.
//!
//! In: requests, and what became of each computed slice. Out: slices of sequences to compute. Requests start in the order in
//! which they came, as far as there are pages for what is computed next; when a running one needs a page and none is left, the
//! one that came last gives up its pages and waits. It goes on later from what it has sampled, with the same random numbers.

use crate::kv::{Name, PAGE, Pages, name, name_seen};
use crate::picture::Sights;
use crate::sample::TokenLogprob;
use crate::{Error, Request, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::{BTreeMap, VecDeque};

/// Tokens of one sequence in one slice that follows others, at most: bounds the attention mask of a GPU.
pub(crate) const CHUNK: usize = 512;
/// Rollouts whose first version is remembered.
const ROLLOUTS: usize = 65_536;

/// A request in hand.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) request: Request,
    /// The weights that it is computed with now.
    pub(crate) version: u64,
    /// Prompt, then what was sampled.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt: usize,
    /// Leading tokens whose keys and values are in the cache.
    pub(crate) computed: usize,
    /// Pages of the cache, in the order of the tokens.
    pub(crate) pages: Vec<u32>,
    /// Names of the leading whole pages, after the salt.
    names: Vec<Name>,
    /// Tokens of the prompt that were found in the cache.
    pub(crate) cached: Option<usize>,
    pub(crate) sampled: Vec<TokenLogprob>,
    /// Of the prompt's second token and those after it, where they are asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprob>,
    /// `(version, count)` of what was sampled.
    pub(crate) versions: Vec<(u64, u32)>,
    pub(crate) rng: ChaCha8Rng,
    /// The scores were no numbers.
    pub(crate) broken: bool,
    pub(crate) preempted: u32,
    /// Where its pictures lie; none where it has none.
    pub(crate) sights: Option<Sights>,
}

impl Running {
    fn new(request: Request, salt: Name, sights: Option<Sights>) -> Running {
        Running {
            version: request.version,
            tokens: request.tokens.clone(),
            prompt: request.tokens.len(),
            computed: 0,
            pages: vec![],
            names: vec![salt],
            cached: None,
            sampled: vec![],
            prompt_logprobs: vec![],
            versions: vec![],
            rng: ChaCha8Rng::seed_from_u64(request.sampling.seed),
            broken: false,
            preempted: 0,
            sights,
            request,
        }
    }

    pub(crate) fn reply(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }

    /// Time, height and width of a token.
    pub(crate) fn position(&self, token: usize) -> [u32; 3] {
        self.sights.as_ref().map_or([token as u32; 3], |sights| sights.position(token))
    }

    /// Adds a sampled token.
    pub(crate) fn push(&mut self, token: TokenLogprob) {
        self.tokens.push(token.id);
        self.sampled.push(token);
        match self.versions.last_mut() {
            Some((version, count)) if *version == self.version => *count += 1,
            _ => self.versions.push((self.version, 1)),
        }
    }

    /// Rows of the batch whose scores are needed for what the prompt's own tokens are worth.
    pub(crate) fn scores_prompt(&self) -> bool {
        self.request.sampling.prompt_logprobs.is_some() && self.computed + 1 < self.prompt
    }

    /// The name of whole page `index`, working out those before it.
    fn name_of(&mut self, index: usize) -> Name {
        while self.names.len() < index + 2 {
            let page = self.names.len() - 1;
            let range = page * PAGE..(page + 1) * PAGE;
            let (before, tokens) = (self.names[page], &self.tokens[range.clone()]);
            self.names.push(match &self.sights {
                Some(sights) => name_seen(&before, tokens, sights.within(range).map(|number| &sights.spans[number].1)),
                None => name(&before, tokens),
            });
        }
        self.names[index + 1]
    }
}

/// The next `count` tokens of one running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) index: usize,
    pub(crate) count: usize,
    /// The sequence starts, or starts anew, in this very step: what it shares may be computed only now.
    pub(crate) starts: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    /// Longest sequence that the model knows positions for.
    pub(crate) max_len: usize,
    /// Longest slice of one sequence that has tokens before it.
    pub(crate) chunk: usize,
    /// Whether a rollout's keys and values outlive a change of version.
    pub(crate) keep_kv: bool,
    pub(crate) prefix_caching: bool,
}

/// What the scheduler has done so far. All of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Prompt tokens of admitted requests.
    pub queried: u64,
    /// Those of them that were found in the cache.
    pub hits: u64,
    /// Times that a running request gave up its pages.
    pub preemptions: u64,
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pages: Pages,
    waiting: VecDeque<Running>,
    pub(crate) running: Vec<Running>,
    /// The version that a rollout began with: it names what may be shared, so that a rollout goes on with what it has.
    births: BTreeMap<u64, u64>,
    pub(crate) stats: CacheStats,
}

impl Scheduler {
    /// A scheduler over `pages` pages.
    pub(crate) fn new(limits: Limits, pages: usize) -> Scheduler {
        let (pages, stats) = (Pages::new(pages), CacheStats::default());
        Scheduler { limits, pages, waiting: VecDeque::new(), running: vec![], births: BTreeMap::new(), stats }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Pages in use, and all of them.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.pages.count() - self.pages.idle(), self.pages.count())
    }

    pub(crate) fn version_in_use(&self, version: u64) -> bool {
        self.running.iter().chain(&self.waiting).any(|r| r.version == version)
    }

    /// Computes every request of one version with another from now on: with the keys and values that are there, or, where
    /// those do not outlive a version, from the start.
    pub(crate) fn move_to(&mut self, from: u64, to: u64) {
        if !self.limits.keep_kv {
            while let Some(at) = self.running.iter().rposition(|r| r.version == from) {
                let running = self.running.remove(at);
                self.running.push(running);
                self.preempt();
            }
        }
        for running in self.running.iter_mut().chain(&mut self.waiting).filter(|r| r.version == from) {
            running.version = to;
            running.request.version = to;
            if !self.limits.keep_kv {
                running.names = vec![salt(to, running.request.salt)];
            }
        }
    }

    /// Takes a request, or says why it can never be answered.
    #[cfg(test)]
    pub(crate) fn submit(&mut self, request: Request) -> Result<()> {
        self.submit_seeing(request, None)
    }

    /// The same for a request with pictures, which lie as `sights` says.
    pub(crate) fn submit_seeing(&mut self, request: Request, sights: Option<Sights>) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request { ticket: request.ticket, reason });
        let need = request.tokens.len() + request.sampling.max_tokens as usize;
        if request.tokens.is_empty() || request.sampling.max_tokens == 0 {
            return refuse("a prompt of at least 1 token and `max_tokens` of at least 1 are needed".into());
        }
        if need > self.limits.max_len {
            return refuse(format!("prompt and `max_tokens` are {need} tokens; the model knows {} positions", self.limits.max_len));
        }
        let capacity = self.pages.count() * PAGE;
        if need > capacity {
            return refuse(format!("prompt and `max_tokens` are {need} tokens; the cache holds {capacity}; hint: raise `kv_cache_mib`"));
        }
        let salt = self.salt(&request);
        self.waiting.push_back(Running::new(request, salt, sights));
        Ok(())
    }

    /// What pages of this request may be shared with: requests of the same salt and, unless kept, of the same version.
    fn salt(&mut self, request: &Request) -> Name {
        let mut version = request.version;
        if self.limits.keep_kv {
            version = *self.births.entry(request.rollout).or_insert(version);
            if self.births.len() > ROLLOUTS {
                self.births.pop_first();
            }
        }
        salt(version, request.salt)
    }

    /// The rollout is over: a later one of its name starts anew.
    pub(crate) fn forget(&mut self, rollout: u64) {
        self.births.remove(&rollout);
    }

    /// Forgets every kept page.
    pub(crate) fn clear_cache(&mut self) {
        self.pages.clear();
        self.births.clear();
    }

    /// Takes a request out, wherever it is. True if it was there.
    pub(crate) fn cancel(&mut self, ticket: u64) -> bool {
        if let Some(at) = self.waiting.iter().position(|r| r.request.ticket == ticket) {
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

    /// A request that runs or waits.
    pub(crate) fn find(&self, ticket: u64) -> Option<&Running> {
        self.running.iter().chain(&self.waiting).find(|r| r.request.ticket == ticket)
    }

    /// What to compute next: every running sequence, then waiting ones, within the budget of tokens and the pages there are.
    pub(crate) fn schedule(&mut self) -> Vec<Slice> {
        let mut budget = self.limits.max_num_batched_tokens.max(1);
        let mut slices = vec![];
        let mut fresh = BTreeMap::new();
        let preemptions = self.stats.preemptions;
        // Those that sample come first, so that a long prompt never holds up replies that are on their way.
        for decoding in [true, false] {
            let mut index = 0;
            while index < self.running.len() && budget > 0 {
                let remaining = self.running[index].tokens.len() - self.running[index].computed;
                if (remaining == 1) == decoding {
                    let count = remaining.min(self.limits.chunk).min(budget);
                    if self.make_room(index, count, &mut slices) {
                        self.name_pages(index, count, &mut fresh);
                        slices.push(Slice { index, count, starts: false });
                        budget -= count;
                    }
                }
                index += 1;
            }
        }
        if self.stats.preemptions == preemptions {
            while budget > 0 && self.running.len() < self.limits.max_num_seqs && self.start(&mut budget, &mut slices, &mut fresh) {}
        }
        slices.sort_by_key(|slice| slice.index);
        slices
    }

    /// Pages for the next `count` tokens of a running sequence. Those that came last make room; false where it made room
    /// itself.
    fn make_room(&mut self, index: usize, count: usize, slices: &mut Vec<Slice>) -> bool {
        let need = (self.running[index].computed + count).div_ceil(PAGE);
        while self.running[index].pages.len() < need {
            if let Some(page) = self.pages.take() {
                self.running[index].pages.push(page);
                continue;
            }
            let last = self.running.len() - 1;
            slices.retain(|slice| slice.index != last);
            self.preempt();
            if last == index {
                return false;
            }
        }
        true
    }

    /// The request that came last gives up its pages and waits.
    fn preempt(&mut self) {
        let Some(mut running) = self.running.pop() else { return };
        // What was to be computed in this step has a name already, and nothing in it.
        let whole = running.computed / PAGE;
        running.pages.iter().skip(whole).for_each(|page| self.pages.unname(*page));
        self.pages.release(&running.pages);
        running.pages.clear();
        running.computed = 0;
        running.preempted += 1;
        self.stats.preemptions += 1;
        self.waiting.push_front(running);
    }

    /// Names the pages that this step fills, so that requests of the same step find them already: in each layer keys and
    /// values of all slices are written before any is read.
    fn name_pages(&mut self, index: usize, count: usize, fresh: &mut BTreeMap<u32, u64>) {
        if !self.limits.prefix_caching {
            return;
        }
        let running = &mut self.running[index];
        for page in running.computed / PAGE..(running.computed + count) / PAGE {
            let name = running.name_of(page);
            self.pages.name(running.pages[page], name);
            fresh.insert(running.pages[page], running.version);
        }
    }

    /// Starts the request that waits longest; false where there is none or no room for it.
    fn start(&mut self, budget: &mut usize, slices: &mut Vec<Slice>, fresh: &mut BTreeMap<u32, u64>) -> bool {
        let Some(mut running) = self.waiting.pop_front() else { return false };
        self.find_prefix(&mut running, fresh);
        let computed = running.pages.len() * PAGE;
        let remaining = running.tokens.len() - computed;
        let longest = if computed == 0 { usize::MAX } else { self.limits.chunk };
        let count = remaining.min(longest).min(*budget);
        let need = (computed + count).div_ceil(PAGE) - running.pages.len();
        if need > self.pages.idle() {
            self.pages.release(&running.pages);
            running.pages.clear();
            self.waiting.push_front(running);
            return false;
        }
        running.pages.extend((0..need).filter_map(|_| self.pages.take()));
        running.computed = computed;
        if running.cached.is_none() {
            running.cached = Some(computed.min(running.prompt));
            self.stats.queried += running.prompt as u64;
            self.stats.hits += computed.min(running.prompt) as u64;
        }
        let index = self.running.len();
        self.running.push(running);
        self.name_pages(index, count, fresh);
        slices.push(Slice { index, count, starts: true });
        *budget -= count;
        true
    }

    /// Takes the pages into use that hold the start of a request. The last token is always computed: its output is what is
    /// sampled from.
    fn find_prefix(&mut self, running: &mut Running, fresh: &BTreeMap<u32, u64>) {
        let scored = running.request.sampling.prompt_logprobs.is_some() && running.sampled.is_empty();
        if !self.limits.prefix_caching || scored {
            return;
        }
        for index in 0..(running.tokens.len() - 1) / PAGE {
            let name = running.name_of(index);
            let Some(page) = self.pages.share(&name) else { return };
            if fresh.get(&page).is_some_and(|version| *version != running.version) {
                // Another version's pass of this very step fills it, perhaps after this request's.
                return self.pages.release(&[page]);
            }
            running.pages.push(page);
        }
    }

    /// Takes a finished sequence out; what it computed stays to be found until its room is needed.
    pub(crate) fn finish(&mut self, index: usize) -> Running {
        let running = self.running.remove(index);
        if running.broken {
            running.pages.iter().for_each(|page| self.pages.unname(*page));
        }
        self.pages.release(&running.pages);
        running
    }
}

/// What stands before the first page of a sequence.
fn salt(version: u64, salt: u64) -> Name {
    let words = [version, salt].map(|word| [word as u32, (word >> 32) as u32]);
    name(&[0; 16], words.as_flattened())
}

#[cfg(test)]
#[path = "tests/scheduler.rs"]
mod tests;
