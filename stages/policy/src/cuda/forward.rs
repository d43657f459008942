//! The forward pass of one token a sequence, launch by launch.

use super::gpu::{Argument, Gpu, Grid};
use crate::ModelConfig;
use crate::cache::DeviceCache;
use crate::model::Model;
use Argument::{At, Float, Int};
use tch::{Device, Kind, Tensor};

/// More rows than this are cuBLAS's.
const THIN: usize = 16;
/// Query heads of one block of the attention kernel.
const HEADS: usize = 8;
/// Blocks of attention that a multiprocessor holds at once.
const ATTENDING: usize = 4;
/// Parts that a sequence's pages are cut into, at most.
const SPLITS: usize = 32;
/// Warps of thin products that keep a multiprocessor's memory busy.
const WARPS: usize = 16;

/// Whether the kernels can compute a model.
pub(crate) fn supports(config: &ModelConfig) -> bool {
    let inner = [config.hidden_size, config.attention_width(), config.intermediate_size];
    let plain = !config.biases.out && !config.biases.mlp;
    matches!(config.head_dim, 64 | 128) && plain && inner.iter().all(|size| size % 64 == 0)
}

/// What a step is given, on the device; each has a place for every row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) tokens: u64,
    pub(crate) positions: u64,
    /// Tokens of the sequence, this one included; 0 for a row that nobody uses.
    pub(crate) lengths: u64,
    /// Where a row's pages start among `pages`.
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

#[derive(Debug)]
struct Layer {
    norm: u64,
    qkv: u64,
    qkv_bias: u64,
    q_norm: u64,
    k_norm: u64,
    out: u64,
    mlp_norm: u64,
    gate_up: u64,
    down: u64,
    keys: u64,
    values: u64,
}

/// Where a model's weights lie. They are the model's: it has to outlive every use.
#[derive(Debug)]
pub(crate) struct Weights {
    embed: u64,
    head: u64,
    norm: u64,
    frequencies: u64,
    layers: Vec<Layer>,
}

fn address(tensor: &Tensor) -> u64 {
    tensor.data_ptr() as u64
}

impl Weights {
    pub(crate) fn of(model: &Model, cache: &DeviceCache) -> Weights {
        let layout = &model.layout;
        let at = |entry: usize| address(&model.values[entry]);
        let some = |entry: Option<usize>| entry.map_or(0, at);
        let layer = |(number, layer): (usize, &crate::layout::LayerAt)| {
            let [keys, values] = cache.arenas(number);
            Layer {
                norm: at(layer.norm),
                qkv: at(layer.qkv.weight),
                qkv_bias: some(layer.qkv.bias),
                q_norm: some(layer.q_norm),
                k_norm: some(layer.k_norm),
                out: at(layer.out.weight),
                mlp_norm: at(layer.mlp_norm),
                gate_up: at(layer.gate_up.weight),
                down: at(layer.down.weight),
                keys: address(keys),
                values: address(values),
            }
        };
        Weights {
            embed: at(layout.embed),
            head: at(layout.head.unwrap_or(layout.embed)),
            norm: at(layout.norm),
            frequencies: address(model.frequencies()),
            layers: layout.layers.iter().enumerate().map(layer).collect(),
        }
    }
}

/// What lies between launches.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// The residual stream, `[rows, hidden]`.
    x: Tensor,
    /// The same, normalised.
    normed: Tensor,
    qkv: Tensor,
    queries: Tensor,
    /// Attention's outcome.
    mixed: Tensor,
    gate_up: Tensor,
    gated: Tensor,
    /// Outcomes of parts of sequences, f32, and their scales.
    parts: Tensor,
    part_scales: Tensor,
    /// `[rows, vocabulary]`, f32.
    pub(crate) scores: Tensor,
}

impl Buffers {
    /// For up to `rows` rows.
    pub(crate) fn new(config: &ModelConfig, rows: usize, device: Device, processors: usize) -> crate::Result<Buffers> {
        let make = |width: usize, kind: Kind| Tensor::f_zeros([rows as i64, width as i64], (kind, device));
        let half = |width: usize| make(width, Kind::BFloat16);
        let kv = config.num_key_value_heads * config.head_dim;
        // As many parts as rows have, whatever the size of the batch.
        let parts = (1..=rows).map(|rows| rows * splits(config, rows, processors)).max().unwrap_or(1) * config.num_attention_heads;
        let flat = |count: usize| Tensor::f_zeros([count as i64], (Kind::Float, device));
        Ok(Buffers {
            x: half(config.hidden_size)?,
            normed: half(config.hidden_size)?,
            qkv: half(config.attention_width() + 2 * kv)?,
            queries: half(config.attention_width())?,
            mixed: half(config.attention_width())?,
            gate_up: half(2 * config.intermediate_size)?,
            gated: half(config.intermediate_size)?,
            parts: flat(parts * config.head_dim)?,
            part_scales: flat(parts * 2)?,
            scores: make(config.vocab_size, Kind::Float)?,
        })
    }
}

/// Groups of heads that the attention kernel takes apart.
fn tiles(config: &ModelConfig) -> usize {
    let group = config.num_attention_heads / config.num_key_value_heads;
    config.num_key_value_heads * group.div_ceil(HEADS)
}

/// Parts that each sequence is cut into, so that few sequences fill the GPU too.
fn splits(config: &ModelConfig, rows: usize, processors: usize) -> usize {
    (processors * ATTENDING / (rows * tiles(config))).clamp(1, SPLITS)
}

/// One pass, ready to be launched for any number of rows.
pub(crate) struct Forward<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) config: &'a ModelConfig,
    pub(crate) weights: &'a Weights,
    pub(crate) buffers: &'a Buffers,
    pub(crate) meta: Meta,
}

/// What becomes of a product's outcome.
#[derive(Clone, Copy, PartialEq)]
enum Into {
    Store,
    Add,
    Scores,
}

impl Forward<'_> {
    /// Launches everything from embeddings to scores for the first `rows` rows.
    pub(crate) fn launch(&self, rows: usize) -> crate::Result<()> {
        let (config, buffers) = (self.config, self.buffers);
        let hidden = config.hidden_size;
        let x = address(&buffers.x);
        let flat = Grid { blocks: [rows, 1, 1], threads: 256, shared: 0 };
        self.gpu.launch("embed", flat, &[At(self.meta.tokens), At(self.weights.embed), At(x), Int(hidden as i32)])?;
        for layer in &self.weights.layers {
            self.normed(layer.norm, rows)?;
            let wide = config.attention_width() + 2 * config.num_key_value_heads * config.head_dim;
            self.product(layer.qkv, &buffers.normed, &buffers.qkv, [rows, wide, hidden], Into::Store)?;
            self.attend(layer, rows)?;
            self.product(layer.out, &buffers.mixed, &buffers.x, [rows, hidden, config.attention_width()], Into::Add)?;
            self.normed(layer.mlp_norm, rows)?;
            self.gate(layer, rows)?;
            self.product(layer.down, &buffers.gated, &buffers.x, [rows, hidden, config.intermediate_size], Into::Add)?;
        }
        self.normed(self.weights.norm, rows)?;
        self.product(self.weights.head, &buffers.normed, &buffers.scores, [rows, config.vocab_size, hidden], Into::Scores)
    }

    fn normed(&self, weight: u64, rows: usize) -> crate::Result<()> {
        let grid = Grid { blocks: [rows, 1, 1], threads: 256, shared: 0 };
        let (x, out) = (address(&self.buffers.x), address(&self.buffers.normed));
        let (width, eps) = (self.config.hidden_size as i32, self.config.rms_norm_eps as f32);
        self.gpu.launch("rms_norm", grid, &[At(x), At(weight), At(out), Int(width), Float(eps)])
    }

    fn product(&self, weight: u64, x: &Tensor, out: &Tensor, [rows, n, k]: [usize; 3], into: Into) -> crate::Result<()> {
        if rows > THIN {
            let keep = if into == Into::Add { 1.0 } else { 0.0 };
            return self.gpu.product(weight, address(x), address(out), [rows, n, k], keep, into == Into::Scores);
        }
        let name = match (into, rows > 8) {
            (Into::Store, false) => "thin_store_1",
            (Into::Store, true) => "thin_store_2",
            (Into::Add, false) => "thin_add_1",
            (Into::Add, true) => "thin_add_2",
            (Into::Scores, false) => "thin_scores_1",
            (Into::Scores, true) => "thin_scores_2",
        };
        self.thin(name, [weight, address(x), address(out)], [rows, n, k], 1)
    }

    fn thin(&self, name: &'static str, [weight, x, out]: [u64; 3], [rows, n, k]: [usize; 3], tiles: usize) -> crate::Result<()> {
        let blocks = n.div_ceil(16);
        let warps = (self.gpu.processors * WARPS).div_ceil(blocks * tiles).clamp(1, 16).min((k / 256).max(1));
        let shared = warps * tiles * rows.div_ceil(8) * 512;
        let grid = Grid { blocks: [blocks, 1, 1], threads: warps * 32, shared };
        self.gpu.launch(name, grid, &[At(weight), At(x), At(out), Int(rows as i32), Int(n as i32), Int(k as i32)])
    }

    /// The gated half of the feed-forward part.
    fn gate(&self, layer: &Layer, rows: usize) -> crate::Result<()> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (normed, both, out) = (address(&self.buffers.normed), address(&self.buffers.gate_up), address(&self.buffers.gated));
        if rows <= THIN {
            let name = if rows > 8 { "thin_gate_2" } else { "thin_gate_1" };
            return self.thin(name, [layer.gate_up, normed, out], [rows, inner, hidden], 2);
        }
        self.gpu.product(layer.gate_up, normed, both, [rows, 2 * inner, hidden], 0.0, false)?;
        let grid = Grid { blocks: [inner.div_ceil(8 * 128), rows, 1], threads: 128, shared: 0 };
        self.gpu.launch("silu_mul", grid, &[At(both), At(out), Int(inner as i32)])
    }

    fn attend(&self, layer: &Layer, rows: usize) -> crate::Result<()> {
        let (config, buffers, meta) = (self.config, self.buffers, &self.meta);
        let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let (eps, factor) = (config.rms_norm_eps as f32, config.rope.attention_factor() as f32);
        let wide = dim == 128;
        let queries = At(address(&buffers.queries));
        let [keys, values] = [At(layer.keys), At(layer.values)];
        let [lengths, first_page, pages] = [At(meta.lengths), At(meta.first_page), At(meta.pages)];
        let [head_count, kv_count] = [Int(heads as i32), Int(kv_heads as i32)];
        let grid = Grid { blocks: [rows, (heads + 2 * kv_heads).div_ceil(4), 1], threads: 128, shared: 0 };
        let sides = [At(address(&buffers.qkv)), At(layer.qkv_bias), At(layer.q_norm), At(layer.k_norm), At(self.weights.frequencies)];
        let places =
            [At(meta.positions), lengths, first_page, pages, queries, keys, values, head_count, kv_count, Float(eps), Float(factor)];
        self.gpu.launch(if wide { "place_128" } else { "place_64" }, grid, &[&sides[..], &places].concat())?;
        let splits = splits(config, rows, self.gpu.processors);
        let grid = Grid { blocks: [rows, tiles(config), splits], threads: 128, shared: 0 };
        // In powers of two, which the hardware has.
        let scale = std::f32::consts::LOG2_E / (dim as f32).sqrt();
        let [out, parts, scales] = [&buffers.mixed, &buffers.parts, &buffers.part_scales].map(|buffer| At(address(buffer)));
        let arguments = [queries, keys, values, lengths, first_page, pages, out, parts, scales, head_count, kv_count, Float(scale)];
        self.gpu.launch(if wide { "attend_128" } else { "attend_64" }, grid, &arguments)?;
        if splits > 1 {
            let grid = Grid { blocks: [rows, heads, 1], threads: dim, shared: 0 };
            self.gpu.launch("merge", grid, &[parts, scales, out, Int(splits as i32)])?;
        }
        Ok(())
    }
}
