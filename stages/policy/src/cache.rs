//! Keys and values of every layer, and attention over them: on the CPU by [`crate::attention`], on a GPU by libtorch.

use crate::attention::{Heads, HostLayer, Job};
use crate::kv::BLOCK;
use crate::plan::{Plan, SliceSpan};
use crate::scheduler::CHUNK;
use crate::{Error, ModelConfig, Result};
use tch::{Device, Kind, Tensor};

/// How many tokens fit into a number of MiB.
///
/// # Errors
/// [`Error::Options`] where not even one block fits.
pub(crate) fn capacity(config: &ModelConfig, mib: usize) -> Result<usize> {
    // The CPU's layout rounds a head's values up to whole vectors.
    let per_head = config.head_dim() + config.head_dim().next_multiple_of(BLOCK);
    let per_token = config.num_hidden_layers * config.num_key_value_heads * per_head * 4;
    let capacity = (mib << 20) / per_token / BLOCK * BLOCK;
    if capacity == 0 {
        return Err(Error::Options(format!("`kv_cache_mib` is {mib}; one block of {BLOCK} tokens takes {} bytes", per_token * BLOCK)));
    }
    Ok(capacity)
}

#[derive(Debug)]
pub(crate) enum KvCache {
    Host(HostCache),
    Device(DeviceCache),
}

impl KvCache {
    /// Reserves an arena of `capacity` tokens.
    pub(crate) fn new(config: &ModelConfig, capacity: usize, device: Device) -> Result<KvCache> {
        if device == Device::Cpu {
            return Ok(KvCache::Host(HostCache::new(config, capacity)));
        }
        KvCache::on_device(config, capacity, device)
    }

    /// An arena of libtorch's own tensors.
    pub(crate) fn on_device(config: &ModelConfig, capacity: usize, device: Device) -> Result<KvCache> {
        Ok(KvCache::Device(DeviceCache::new(config, capacity, device)?))
    }

    /// Copies keys and values of `len` tokens between runs that do not overlap.
    pub(crate) fn copy(&mut self, from: usize, to: usize, len: usize) {
        match self {
            KvCache::Host(cache) => cache.layers.iter_mut().for_each(|layer| layer.copy(from, to, len)),
            KvCache::Device(cache) => cache.copy(from, to, len),
        }
    }

    /// Takes a batch of slices up.
    pub(crate) fn begin(&mut self, plan: &Plan) -> Result<()> {
        match self {
            KvCache::Host(_) => Ok(()),
            KvCache::Device(cache) => cache.begin(plan),
        }
    }

    /// Writes one layer's keys and values of a batch and answers its queries: `[rows, heads * dim]`, with `last` only the rows
    /// in `plan.keep`.
    pub(crate) fn attend(&mut self, plan: &Plan, layer: usize, last: bool, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        match self {
            KvCache::Host(cache) => cache.attend(plan, layer, last, q, k, v),
            KvCache::Device(cache) => cache.attend(plan, layer, last, q, k, v),
        }
    }
}

#[derive(Debug)]
pub(crate) struct HostCache {
    heads: Heads,
    layers: Vec<HostLayer>,
    /// Queries, keys, values and outputs of the layer at hand.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
    jobs: Vec<Job<'static>>,
}

impl HostCache {
    fn new(config: &ModelConfig, capacity: usize) -> HostCache {
        let heads = Heads { heads: config.num_attention_heads, kv_heads: config.num_key_value_heads, dim: config.head_dim() };
        let layers = (0..config.num_hidden_layers).map(|_| HostLayer::new(heads, capacity)).collect();
        HostCache { heads, layers, q: vec![], k: vec![], v: vec![], out: vec![], jobs: vec![] }
    }

    fn attend(&mut self, plan: &Plan, layer: usize, last: bool, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (row, width) = (self.heads.heads * self.heads.dim, self.heads.kv_heads * self.heads.dim);
        fetch(q, &mut self.q);
        fetch(k, &mut self.k);
        fetch(v, &mut self.v);
        self.jobs.clear();
        let mut queries = 0;
        for span in &plan.spans {
            let side = span.offset * width..(span.offset + span.count) * width;
            self.layers[layer].write(span.start + span.past, &self.k[side.clone()], &self.v[side]);
            if !last {
                self.jobs.push(Job { start: span.start, past: span.past, queries: span.count, tree: None });
                queries += span.count;
            } else if span.ends {
                let final_row = (span.offset + span.count - 1) * row;
                self.q.copy_within(final_row..final_row + row, queries * row);
                self.jobs.push(Job { start: span.start, past: span.past + span.count - 1, queries: 1, tree: None });
                queries += 1;
            }
        }
        let rows = if last { queries } else { queries + plan.padding };
        self.out.clear();
        self.out.resize(rows * row, 0.0);
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        self.layers[layer].attend(self.heads, &self.jobs, &self.q[..queries * row], &mut self.out[..queries * row], threads);
        Tensor::from_slice(&self.out).view([rows as i64, row as i64])
    }
}

/// Copies a tensor's values, row-major.
pub(crate) fn fetch(tensor: &Tensor, into: &mut Vec<f32>) {
    let tensor = tensor.contiguous();
    into.resize(tensor.numel(), 0.0);
    tensor.copy_data(into, tensor.numel());
}

/// Keys and values of each layer, `[capacity + 1, kv heads, dim]`. What pads a batch is written to the last row.
#[derive(Debug)]
pub(crate) struct DeviceCache {
    device: Device,
    capacity: usize,
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// Row of the arena for each row of the batch at hand.
    places: Tensor,
    band: Band,
}

impl DeviceCache {
    fn new(config: &ModelConfig, capacity: usize, device: Device) -> Result<DeviceCache> {
        let shape = [capacity as i64 + 1, config.num_key_value_heads as i64, config.head_dim() as i64];
        let make = || -> Result<Vec<Tensor>> {
            (0..config.num_hidden_layers).map(|_| Ok(Tensor::f_empty(shape, (Kind::Float, device))?)).collect()
        };
        let band = Band { mask: None, past: 0, device };
        Ok(DeviceCache { device, capacity, keys: make()?, values: make()?, places: Tensor::new(), band })
    }

    fn copy(&mut self, from: usize, to: usize, len: usize) {
        for arena in self.keys.iter().chain(&self.values) {
            let source = arena.narrow(0, from as i64, len as i64);
            arena.narrow(0, to as i64, len as i64).copy_(&source);
        }
    }

    fn begin(&mut self, plan: &Plan) -> Result<()> {
        let spans = plan.spans.iter().flat_map(|s| s.start + s.past..s.start + s.past + s.count);
        let mut places: Vec<i64> = spans.map(|p| p as i64).collect();
        places.resize(plan.tokens.len(), self.capacity as i64);
        self.places = Tensor::f_from_slice(&places)?.f_to_device(self.device)?;
        Ok(())
    }

    fn attend(&mut self, plan: &Plan, layer: usize, last: bool, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let width = q.size()[1] * q.size()[2];
        let _ = self.keys[layer].index_copy_(0, &self.places, k);
        let _ = self.values[layer].index_copy_(0, &self.places, v);
        let mut parts = vec![];
        for span in plan.spans.iter().filter(|span| !last || span.ends) {
            parts.push(self.answer(span, last, layer, q).reshape([-1, width]));
        }
        if !last && plan.padding > 0 {
            parts.push(Tensor::zeros([plan.padding as i64, width], (Kind::Float, self.device)));
        }
        if parts.is_empty() { q.narrow(0, 0, 0).reshape([0, width]) } else { Tensor::cat(&parts, 0) }
    }

    /// Attention of one slice over its sequence so far. With `final_row` only the slice's last query is answered.
    fn answer(&mut self, span: &SliceSpan, final_row: bool, layer: usize, q: &Tensor) -> Tensor {
        let (offset, count, past) = (span.offset as i64, span.count as i64, span.past as i64);
        let side = |arena: &Tensor| arena.narrow(0, span.start as i64, past + count).unsqueeze(0).transpose(1, 2);
        let (k, v) = (side(&self.keys[layer]), side(&self.values[layer]));
        if count == 1 || final_row {
            // One query sees every key; the heads that share keys are put side by side as queries, and no mask is needed.
            let (kv_heads, dim) = (k.size()[1], k.size()[3]);
            let q = q.narrow(0, offset + count - 1, 1).reshape([1, kv_heads, -1, dim]);
            return Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0.0, false, None, false);
        }
        let q = q.narrow(0, offset, count).unsqueeze(0).transpose(1, 2);
        let mask = if past > 0 { Some(self.band.mask(count, past)) } else { None };
        Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, past == 0, None, true).transpose(1, 2)
    }
}

/// Causal masks of slices that do not start their sequence, all cut from one matrix: row `i` is 0 up to column `i + past` and
/// the smallest number after it.
#[derive(Debug)]
struct Band {
    mask: Option<Tensor>,
    past: i64,
    device: Device,
}

impl Band {
    /// `[count, past + count]`
    fn mask(&mut self, count: i64, past: i64) -> Tensor {
        let rows = CHUNK as i64;
        if self.mask.is_none() || self.past < past {
            self.past = (past + 512) / 512 * 512;
            let ahead = Tensor::ones([rows, self.past + rows], (Kind::Float, self.device)).triu(self.past + 1);
            self.mask = Some(ahead * f64::from(f32::MIN));
        }
        let all = self.mask.as_ref().expect("just made");
        all.narrow(0, 0, count).narrow(1, self.past - past, past + count)
    }
}
