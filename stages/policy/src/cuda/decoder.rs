//! Steps of the decoder: what goes up to the device, the graph that runs there, what comes back.

use super::forward::{Buffers, Forward, Meta, Weights};
use super::gpu::{Argument, Gpu, Graph, Grid};
use crate::cache::DeviceCache;
use crate::kv::PAGE;
use crate::model::Model;
use crate::sample::TokenLogprob;
use crate::{Error, ModelConfig, Result};
use cudarc::driver::PinnedHostSlice;
use std::collections::BTreeMap;
use std::fmt;
use tch::{Device, Kind, Tensor};

/// Words of a row beside its pages: token, position, length, first page, temperature, draw, obey.
const WORDS: usize = 7;
/// Temperature, draw and obey among them.
const SAMPLING: usize = 4;
/// More rows than this go in several steps.
const ROWS: usize = 256;

/// How a row's scores become a token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sampling {
    /// 0 takes the best.
    pub(crate) temperature: f32,
    /// In `[0, 1)`: where in the cumulative distribution the token is.
    pub(crate) draw: f64,
    /// Whether the engine's banned ids hold.
    pub(crate) obey: bool,
}

/// One sequence of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    /// Its last token, which is computed now.
    pub(crate) token: u32,
    /// What the token is turned by.
    pub(crate) position: u32,
    /// Tokens, this one included.
    pub(crate) length: usize,
    pub(crate) pages: &'a [u32],
    pub(crate) sampling: Sampling,
}

/// A token, or none where the scores were no numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub(crate) id: Option<u32>,
    pub(crate) logprob: f32,
}

impl Drawn {
    pub(crate) fn token(self) -> Option<TokenLogprob> {
        self.id.map(|id| TokenLogprob { id, logprob: self.logprob, ..TokenLogprob::default() })
    }
}

/// A version's weights as the kernels find them, with a graph for each size of batch that has come twice.
struct Version {
    weights: Weights,
    graphs: BTreeMap<usize, Option<Graph>>,
}

pub(crate) struct Decoder {
    gpu: Gpu,
    config: ModelConfig,
    buffers: Buffers,
    /// What goes up, [`WORDS`] arrays of `rows`, then pages; on both sides.
    up: PinnedHostSlice<u32>,
    up_device: Tensor,
    /// Ids, then log-probabilities.
    down: PinnedHostSlice<u32>,
    down_device: Tensor,
    /// A bit for each id.
    bans: Tensor,
    versions: BTreeMap<u64, Version>,
    rows: usize,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder({} rows, versions {:?})", self.rows, self.versions.keys())
    }
}

/// Sizes of batch that graphs are made for.
fn padded(rows: usize) -> usize {
    match rows {
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(32),
    }
}

impl Decoder {
    /// A decoder for up to `max_num_seqs` sequences at once.
    ///
    /// # Errors
    /// [`Error::Cuda`] where the device cannot be used so; [`Error::Torch`] without memory.
    pub(crate) fn new(config: &ModelConfig, max_num_seqs: usize, banned: &[u32], ordinal: usize) -> Result<Decoder> {
        let gpu = Gpu::new(ordinal)?;
        let device = Device::Cuda(ordinal);
        let rows = padded(max_num_seqs.clamp(1, ROWS));
        let words = WORDS * rows + rows * config.max_position_embeddings.div_ceil(PAGE);
        let buffers = Buffers::new(config, rows, device, gpu.processors)?;
        let mut bans = vec![0i32; config.vocab_size.div_ceil(32)];
        for id in banned {
            if let Some(word) = bans.get_mut(*id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        }
        let room = |words: usize| Tensor::f_zeros([words as i64], (Kind::Int, device));
        Ok(Decoder {
            up: gpu.pinned(words)?,
            up_device: room(words)?,
            down: gpu.pinned(2 * rows)?,
            down_device: room(2 * rows)?,
            bans: Tensor::f_from_slice(&bans)?.f_to_device(device)?,
            gpu,
            config: config.clone(),
            buffers,
            versions: BTreeMap::new(),
            rows,
        })
    }

    /// Rows of one step, at most.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// A version is no longer held, or another's weights have its name.
    pub(crate) fn forget(&mut self, version: u64) {
        self.versions.remove(&version);
    }

    /// Computes the last token of each row, writes its keys and values, and draws the next one.
    ///
    /// # Errors
    /// [`Error::Cuda`] where a launch or a copy fails.
    pub(crate) fn step(&mut self, version: u64, model: &Model, cache: &DeviceCache, rows: &[Row<'_>]) -> Result<Vec<Drawn>> {
        let size = padded(rows.len());
        let used = self.fill(rows)?;
        self.gpu.after_torch()?;
        self.gpu.upload(&self.up.as_slice().map_err(host)?[..used], at(&self.up_device, 0))?;
        let held = self.versions.entry(version);
        let held = held.or_insert_with(|| Version { weights: Weights::of(model, cache), graphs: BTreeMap::new() });
        let array = |number: usize| at(&self.up_device, number * self.rows);
        let meta = Meta {
            tokens: array(0),
            positions: array(1),
            lengths: array(2),
            first_page: array(3),
            pages: at(&self.up_device, WORDS * self.rows),
        };
        let forward = Forward { gpu: &self.gpu, config: &self.config, weights: &held.weights, buffers: &self.buffers, meta };
        let work = || {
            forward.launch(size)?;
            draw(&self.gpu, &self.buffers.scores, &self.bans, &self.up_device, &self.down_device, [self.rows, size, self.config.vocab_size])
        };
        match held.graphs.get_mut(&size) {
            // The first time everything is loaded; a graph is recorded when the size comes again.
            None => {
                work()?;
                held.graphs.insert(size, None);
            }
            Some(graph) => {
                if graph.is_none() {
                    *graph = Some(self.gpu.record(work)?);
                }
                let graph = graph.as_ref().expect("just recorded");
                graph.launch()?;
            }
        }
        self.drawn(rows.len())
    }

    /// Draws from scores of libtorch's, `[rows, vocabulary]`, f32.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub(crate) fn draw(&mut self, scores: &Tensor, sampling: &[Sampling]) -> Result<Vec<Drawn>> {
        let rows: Vec<Row<'_>> = sampling.iter().map(|s| Row { token: 0, position: 0, length: 0, pages: &[], sampling: *s }).collect();
        let used = self.fill(&rows)?;
        self.gpu.after_torch()?;
        self.gpu.upload(&self.up.as_slice().map_err(host)?[..used], at(&self.up_device, 0))?;
        let sizes = [self.rows, rows.len(), self.config.vocab_size];
        draw(&self.gpu, scores, &self.bans, &self.up_device, &self.down_device, sizes)?;
        self.drawn(rows.len())
    }

    /// A row's scores of the last step, before temperature and bans.
    pub(crate) fn scores(&self, row: usize) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; self.config.vocab_size];
        let from = at(&self.buffers.scores, row * self.config.vocab_size);
        self.gpu.download(from, &mut scores)?;
        Ok(scores)
    }

    /// Writes what goes up; words used.
    fn fill(&mut self, rows: &[Row<'_>]) -> Result<usize> {
        let stride = self.rows;
        let words = self.up.as_mut_slice().map_err(host)?;
        let (arrays, pages) = words.split_at_mut(WORDS * stride);
        let mut used = 0;
        for (at, row) in rows.iter().enumerate() {
            // The draw stays below 1 when it becomes shorter.
            let draw = (row.sampling.draw as f32).min(1.0 - f32::EPSILON / 2.0);
            let sampling = [row.sampling.temperature.to_bits(), draw.to_bits(), u32::from(row.sampling.obey)];
            let values = [row.token, row.position, row.length as u32, used as u32, sampling[0], sampling[1], sampling[2]];
            values.iter().enumerate().for_each(|(array, value)| arrays[array * stride + at] = *value);
            pages[used..used + row.pages.len()].copy_from_slice(row.pages);
            used += row.pages.len();
        }
        for at in rows.len()..padded(rows.len()).min(stride) {
            (0..WORDS).for_each(|array| arrays[array * stride + at] = 0);
        }
        Ok(WORDS * stride + used)
    }

    fn drawn(&mut self, rows: usize) -> Result<Vec<Drawn>> {
        let from = at(&self.down_device, 0);
        let down = self.down.as_mut_slice().map_err(host)?;
        self.gpu.download(from, down)?;
        let (ids, logprobs) = down.split_at(self.rows);
        let one = |(id, logprob): (&u32, &u32)| Drawn { id: (*id != u32::MAX).then_some(*id), logprob: f32::from_bits(*logprob) };
        Ok(ids[..rows].iter().zip(logprobs).map(one).collect())
    }
}

fn host(error: impl fmt::Display) -> Error {
    Error::Cuda(format!("host memory: {error}"))
}

/// The address of a number of four bytes.
fn at(tensor: &Tensor, index: usize) -> u64 {
    tensor.data_ptr() as u64 + 4 * index as u64
}

fn draw(gpu: &Gpu, scores: &Tensor, bans: &Tensor, up: &Tensor, down: &Tensor, [stride, rows, vocabulary]: [usize; 3]) -> Result<()> {
    let array = |number: usize| Argument::At(at(up, number * stride));
    let grid = Grid { blocks: [rows, 1, 1], threads: 1024, shared: 0 };
    let sampling = [array(SAMPLING), array(SAMPLING + 1), array(SAMPLING + 2)];
    let out = [Argument::At(at(down, 0)), Argument::At(at(down, stride)), Argument::Int(vocabulary as i32)];
    gpu.launch("sample", grid, &[&[Argument::At(at(scores, 0)), Argument::At(at(bans, 0))], &sampling[..], &out].concat())
}
