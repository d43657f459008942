//! How many tokens' keys and values fit, and the cache of a GPU: libtorch's tensors, and its attention.

use crate::kv::PAGE;
use crate::model::Place;
use crate::plan::{Plan, SliceSpan};
use crate::scheduler::CHUNK;
use crate::{Error, ModelConfig, Result};
use tch::{Device, Kind, Tensor};

/// How many pages fit into a number of MiB, at `bytes` a number.
///
/// # Errors
/// [`Error::Options`] where not even one page fits.
pub(crate) fn pages(config: &ModelConfig, mib: usize, bytes: usize) -> Result<usize> {
    // The CPU's layout rounds a head's values up to whole vectors.
    let per_head = config.head_dim + config.head_dim.next_multiple_of(PAGE);
    let per_page = config.num_hidden_layers * config.num_key_value_heads * per_head * bytes * PAGE;
    match (mib << 20) / per_page {
        0 => Err(Error::Options(format!("`kv_cache_mib` is {mib}; one page of {PAGE} tokens takes {per_page} bytes"))),
        // Pages are counted in 32 bits.
        pages => Ok(pages.min(1 << 28)),
    }
}

/// Copies a tensor's values, row-major.
pub(crate) fn fetch(tensor: &Tensor, into: &mut Vec<f32>) {
    let tensor = tensor.contiguous();
    into.resize(tensor.numel(), 0.0);
    tensor.copy_data(into, tensor.numel());
}

/// Keys and values of each layer, `[capacity, kv heads, dim]`.
#[derive(Debug)]
pub(crate) struct DeviceCache {
    place: Place,
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// Row of the cache for each row of the batch at hand.
    places: Tensor,
    keep: Tensor,
    singles: Option<Singles>,
    chunks: Vec<Chunk>,
    band: Band,
    /// Query heads that share keys.
    group: i64,
}

/// Slices of one token, answered together.
#[derive(Debug)]
struct Singles {
    /// Their rows in the batch.
    rows: Tensor,
    /// Rows of the cache, each sequence filled up to the longest.
    index: Tensor,
    /// `[slices, 1, 1, longest]`: 0 for what is there, the smallest number for what fills up.
    mask: Tensor,
    count: i64,
}

/// A slice of more than one token.
#[derive(Debug)]
struct Chunk {
    /// Its number among the spans.
    at: usize,
    /// What it follows, where it follows anything.
    past: Option<Past>,
}

#[derive(Debug)]
struct Past {
    /// Rows of the cache of the sequence's tokens, the slice's included.
    index: Tensor,
    /// Who sees whom, once for each of the query heads that share keys.
    mask: Tensor,
}

impl DeviceCache {
    pub(crate) fn new(config: &ModelConfig, pages: usize, place: Place) -> Result<DeviceCache> {
        let shape = [(pages * PAGE) as i64, config.num_key_value_heads as i64, config.head_dim as i64];
        let make = || -> Result<Vec<Tensor>> {
            (0..config.num_hidden_layers).map(|_| Ok(Tensor::f_zeros(shape, (place.kind, place.device))?)).collect()
        };
        let (keys, values) = (make()?, make()?);
        let band = Band { mask: None, past: 0, place };
        let group = (config.num_attention_heads / config.num_key_value_heads) as i64;
        Ok(DeviceCache { place, keys, values, places: Tensor::new(), keep: Tensor::new(), singles: None, chunks: vec![], band, group })
    }

    /// Takes a batch of slices up.
    pub(crate) fn begin(&mut self, plan: &Plan) -> Result<()> {
        let device = self.place.device;
        let to = |rows: Vec<i64>| -> Result<Tensor> { Ok(Tensor::f_from_slice(&rows)?.f_to_device(device)?) };
        let written = |span: &SliceSpan| span.places(span.past..span.past + span.count).map(|p| p as i64).collect::<Vec<_>>();
        self.places = to(plan.spans.iter().flat_map(written).collect())?;
        self.keep = to(plan.keep.iter().map(|row| *row as i64).collect())?;
        let singles: Vec<&SliceSpan> = plan.spans.iter().filter(|span| span.count == 1).collect();
        self.singles = None;
        if let Some(longest) = singles.iter().map(|span| span.past + 1).max() {
            let (mut index, mut mask) = (vec![], vec![]);
            for span in &singles {
                index.extend(span.places(0..span.past + 1).map(|p| p as i64));
                mask.resize(mask.len() + span.past + 1, 0.0);
                index.resize(index.len().next_multiple_of(longest), 0);
                mask.resize(mask.len().next_multiple_of(longest), f32::MIN);
            }
            let count = singles.len() as i64;
            let mask =
                Tensor::f_from_slice(&mask)?.f_to_device(device)?.f_to_kind(self.place.kind)?.f_view([count, 1, 1, longest as i64])?;
            let rows = to(singles.iter().map(|span| span.offset as i64).collect())?;
            self.singles = Some(Singles { rows, index: to(index)?, mask, count });
        }
        self.chunks.clear();
        for (at, span) in plan.spans.iter().enumerate().filter(|(_, span)| span.count > 1) {
            let past = if span.past == 0 {
                None
            } else {
                let mask = self.band.mask(span.count as i64, span.past as i64).repeat([self.group, 1]);
                Some(Past { index: to(span.places(0..span.past + span.count).map(|p| p as i64).collect())?, mask })
            };
            self.chunks.push(Chunk { at, past });
        }
        Ok(())
    }

    /// Attention of one layer over the batch that was taken up; in the last layer of the rows that are kept.
    pub(crate) fn attend(&mut self, plan: &Plan, layer: usize, last: bool, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let width = q.size()[1] * q.size()[2];
        let _ = self.keys[layer].index_copy_(0, &self.places, k);
        let _ = self.values[layer].index_copy_(0, &self.places, v);
        let mut out = Tensor::zeros([q.size()[0], width], (q.kind(), self.place.device));
        if let Some(singles) = &self.singles {
            let (kv_heads, dim) = (k.size()[1], k.size()[2]);
            let side = |arena: &Tensor| arena.index_select(0, &singles.index).view([singles.count, -1, kv_heads, dim]).transpose(1, 2);
            // Heads that share keys are put side by side as queries.
            let queries = q.index_select(0, &singles.rows).view([singles.count, kv_heads, -1, dim]);
            let (keys, values) = (side(&self.keys[layer]), side(&self.values[layer]));
            let mixed = Tensor::scaled_dot_product_attention(&queries, &keys, &values, Some(&singles.mask), 0.0, false, None, false);
            let _ = out.index_copy_(0, &singles.rows, &mixed.reshape([singles.count, width]));
        }
        for Chunk { at, past } in &self.chunks {
            let span = &plan.spans[*at];
            if last && span.wanted.is_empty() {
                continue;
            }
            let (offset, count) = (span.offset as i64, span.count as i64);
            let queries = q.narrow(0, offset, count);
            let mixed = match past {
                // All that it sees is at hand.
                None => {
                    let [queries, keys, values] =
                        [&queries, &k.narrow(0, offset, count), &v.narrow(0, offset, count)].map(|side| side.unsqueeze(0).transpose(1, 2));
                    Tensor::scaled_dot_product_attention(&queries, &keys, &values, None::<&Tensor>, 0.0, true, None, true).transpose(1, 2)
                }
                Some(Past { index, mask }) => {
                    let side = |arena: &Tensor| arena.index_select(0, index).unsqueeze(0).transpose(1, 2);
                    let (keys, values) = (side(&self.keys[layer]), side(&self.values[layer]));
                    let (kv_heads, dim) = (k.size()[1], k.size()[2]);
                    // Heads that share keys are put one after the other as queries: no key is copied for them.
                    let grouped = queries.view([count, kv_heads, self.group, dim]).permute([1, 2, 0, 3]).reshape([1, kv_heads, -1, dim]);
                    let mixed = Tensor::scaled_dot_product_attention(&grouped, &keys, &values, Some(mask), 0.0, false, None, false);
                    mixed.view([kv_heads, self.group, count, dim]).permute([2, 0, 1, 3])
                }
            };
            out.narrow(0, offset, count).copy_(&mixed.reshape([count, width]));
        }
        if last { out.index_select(0, &self.keep) } else { out }
    }

    /// Overwrites pages that may hold what is no number.
    pub(crate) fn scrub(&mut self, pages: &[u32]) {
        for arena in self.keys.iter().chain(&self.values) {
            pages.iter().for_each(|page| drop(arena.narrow(0, i64::from(*page) * PAGE as i64, PAGE as i64).zero_()));
        }
    }

    /// Keys and values of a layer.
    pub(crate) fn arenas(&self, layer: usize) -> [&Tensor; 2] {
        [&self.keys[layer], &self.values[layer]]
    }

    /// The rows whose outputs are wanted.
    pub(crate) fn keep(&self) -> &Tensor {
        &self.keep
    }

    pub(crate) fn device(&self) -> Device {
        self.place.device
    }
}

/// Causal masks of slices that do not start their sequence, all cut from one matrix: row `i` is 0 up to column `i + past` and
/// the smallest number after it.
#[derive(Debug)]
struct Band {
    mask: Option<Tensor>,
    past: i64,
    place: Place,
}

impl Band {
    /// `[count, past + count]`
    fn mask(&mut self, count: i64, past: i64) -> Tensor {
        let rows = CHUNK as i64;
        if self.mask.is_none() || self.past < past {
            self.past = (past + 512) / 512 * 512;
            let ahead = Tensor::ones([rows, self.past + rows], (Kind::Float, self.place.device)).triu(self.past + 1);
            self.mask = Some((ahead * f64::from(f32::MIN)).to_kind(self.place.kind));
        }
        let all = self.mask.as_ref().expect("just made");
        all.narrow(0, 0, count).narrow(1, self.past - past, past + count)
    }
}
