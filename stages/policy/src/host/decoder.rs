//! The decoder's layers over panels of activations.

use super::matrix::{Batch, Matrix};
use super::tile::Finish;
use super::{Panel, each_piece, threads};
use crate::attention::{Heads, HostLayer, Job, dispatch};
use crate::kv::PAGE;
use crate::lanes::LANES;
use crate::plan::Plan;
use crate::weights::Weights;
use crate::{Error, ModelConfig, Result};

/// Queries of one sequence that a thread takes at once.
const QUERIES: usize = 32;
/// Fewer rows than this are cut up by one thread sooner than by many.
const FEW: usize = 64;
/// Products of a layer, in multiplications, that are worth waking other threads for. A layer wakes them a dozen times, at 5 to
/// 50 µs each by machine; this many take one core some 0.5 ms.
const WORTH_WAKING: usize = 16 << 20;
/// Reading a weight from memory costs as much as multiplying so many rows by it.
const READING: usize = 8;

#[derive(Debug)]
struct Layer {
    norm: Vec<Panel>,
    qkv: Matrix,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    out: Matrix,
    mlp_norm: Vec<Panel>,
    gate_up: Matrix,
    down: Matrix,
}

/// Weights of a decoder, as the CPU wants them.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: ModelConfig,
    /// Input embeddings; the output layer too where that is tied.
    embed: Matrix,
    head: Option<Matrix>,
    layers: Vec<Layer>,
    norm: Vec<Panel>,
    frequencies: Vec<f32>,
    factor: f32,
    /// The axis of positions that each rotary pair follows.
    axes: Vec<usize>,
}

impl Decoder {
    pub(crate) fn new(config: &ModelConfig, weights: &Weights) -> Result<Decoder> {
        let get = |name: &str| -> Result<Vec<f32>> {
            let name = &format!("{}{name}", config.decoder_prefix());
            let values = crate::model::download(&weights.get(name)?);
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(Error::Weights(format!("tensor `{name}` holds what is no number"))),
            }
        };
        let hidden = config.hidden_size;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for number in 0..config.num_hidden_layers {
            let get = |part: &str| get(&format!("model.layers.{number}.{part}"));
            let three = |suffix: &str| -> Result<[Vec<f32>; 3]> {
                Ok([
                    get(&format!("self_attn.q_proj.{suffix}"))?,
                    get(&format!("self_attn.k_proj.{suffix}"))?,
                    get(&format!("self_attn.v_proj.{suffix}"))?,
                ])
            };
            let [q, k, v] = three("weight")?;
            let mut qkv = Matrix::new(&[&q, &k, &v], hidden);
            if config.biases.qkv {
                let [q, k, v] = three("bias")?;
                qkv = qkv.with_bias(&[&q, &k, &v]);
            }
            let mut out = Matrix::new(&[&get("self_attn.o_proj.weight")?], config.attention_width());
            if config.biases.out {
                out = out.with_bias(&[&get("self_attn.o_proj.bias")?]);
            }
            let mut gate_up = Matrix::gated(&get("mlp.gate_proj.weight")?, &get("mlp.up_proj.weight")?, hidden);
            let mut down = Matrix::new(&[&get("mlp.down_proj.weight")?], config.intermediate_size);
            if config.biases.mlp {
                gate_up = gate_up.with_gated_bias(&get("mlp.gate_proj.bias")?, &get("mlp.up_proj.bias")?);
                down = down.with_bias(&[&get("mlp.down_proj.bias")?]);
            }
            let head_norm = |name: &str| config.qk_norm.then(|| get(name)).transpose();
            layers.push(Layer {
                norm: panels(&get("input_layernorm.weight")?),
                qkv,
                q_norm: head_norm("self_attn.q_norm.weight")?,
                k_norm: head_norm("self_attn.k_norm.weight")?,
                out,
                mlp_norm: panels(&get("post_attention_layernorm.weight")?),
                gate_up,
                down,
            });
        }
        let head = if config.tie_word_embeddings { None } else { Some(Matrix::new(&[&get("lm_head.weight")?], hidden)) };
        Ok(Decoder {
            embed: Matrix::new(&[&get("model.embed_tokens.weight")?], hidden),
            head,
            layers,
            norm: panels(&get("model.norm.weight")?),
            frequencies: config.rope.frequencies(config.head_dim),
            factor: config.rope.attention_factor() as f32,
            axes: config.rope.axes().map(|axes| axes.iter().map(|axis| *axis as usize).collect()).unwrap_or_default(),
            config: config.clone(),
        })
    }

    /// Whether a pass is long enough for more threads than one to make it shorter.
    pub(crate) fn is_worth_threads(&self, plan: &Plan) -> bool {
        let Heads { heads, kv_heads, dim } = self.heads();
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let weights = hidden * (2 * heads + 2 * kv_heads) * dim + 3 * hidden * inner;
        let seen: usize = plan.spans.iter().map(|span| span.count * (span.past + span.count)).sum();
        weights * (plan.tokens.len() + READING) + 2 * seen * heads * dim >= WORTH_WAKING
    }

    fn heads(&self) -> Heads {
        Heads { heads: self.config.num_attention_heads, kv_heads: self.config.num_key_value_heads, dim: self.config.head_dim }
    }

    /// Final hidden states of the rows that the plan keeps; keys and values of all rows go into the cache.
    pub(crate) fn forward(&self, plan: &Plan, cache: &mut HostCache) -> Batch {
        let HostCache { layers, work } = cache;
        let mut x = Batch::default();
        self.embed(plan, &mut x);
        let rotation = self.rotation(plan);
        for (number, (layer, kept)) in self.layers.iter().zip(layers).enumerate() {
            let last = number + 1 == self.layers.len();
            self.normed(&x, &layer.norm, &mut work.normed);
            work.qkv.shape(x_rows(plan), layer.qkv.outputs());
            layer.qkv.multiply(&work.normed, Finish::Store, &mut work.qkv);
            self.split(plan, layer, &rotation, work);
            write(plan, kept, self.heads(), work);
            if last {
                x = kept_rows(&x, &plan.keep, self.config.hidden_size);
                if plan.keep.is_empty() {
                    return x;
                }
            }
            self.attend(plan, kept, last, work);
            layer.out.multiply(&work.mixed, Finish::Add, &mut x);
            self.normed(&x, &layer.mlp_norm, &mut work.normed);
            work.inner.shape(x.used, self.config.intermediate_size);
            layer.gate_up.multiply(&work.normed, Finish::Gated, &mut work.inner);
            layer.down.multiply(&work.inner, Finish::Add, &mut x);
        }
        let mut normed = Batch::default();
        self.normed(&x, &self.norm, &mut normed);
        normed
    }

    /// Scores of the next token, `[vocabulary panels, rows]`.
    pub(crate) fn logits(&self, hidden: &Batch) -> Batch {
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let mut logits = Batch::default();
        logits.shape(hidden.used, head.outputs());
        head.multiply(hidden, Finish::Store, &mut logits);
        logits
    }

    fn embed(&self, plan: &Plan, x: &mut Batch) {
        x.shape(plan.tokens.len(), self.config.hidden_size);
        let mut row = vec![0.0; self.config.hidden_size];
        for (number, token) in plan.tokens.iter().enumerate() {
            self.embed.output(*token as usize, &mut row);
            x.write(number, &row);
        }
        for (number, features) in &plan.seen {
            x.write(*number, features);
        }
    }

    /// Cosine and sine of each rotary pair, `[rows, dim / 2]`.
    fn rotation(&self, plan: &Plan) -> Vec<(f32, f32)> {
        let mut rotation = Vec::with_capacity(plan.positions.len() * self.frequencies.len());
        for position in &plan.positions {
            for (pair, frequency) in self.frequencies.iter().enumerate() {
                let axis = self.axes.get(pair).copied().unwrap_or(0);
                let angle = f64::from(position[axis] as f32 * frequency);
                rotation.push((libm::cos(angle) as f32 * self.factor, libm::sin(angle) as f32 * self.factor));
            }
        }
        rotation
    }

    /// Root-mean-square norm of each row.
    fn normed(&self, x: &Batch, weight: &[Panel], out: &mut Batch) {
        out.shape(x.used, self.config.hidden_size);
        let mut sums = vec![[0.0f32; LANES]; x.rows];
        for panel in x.panels.chunks_exact(x.rows) {
            for (sums, values) in sums.iter_mut().zip(panel) {
                for lane in 0..LANES {
                    sums[lane] += values[lane] * values[lane];
                }
            }
        }
        let hidden = self.config.hidden_size as f32;
        let eps = self.config.rms_norm_eps as f32;
        let scales: Vec<f32> = sums.iter().map(|sums| 1.0 / (sums.iter().sum::<f32>() / hidden + eps).sqrt()).collect();
        let size = if x.rows < FEW { out.panels.len() } else { 4 * x.rows };
        each_piece(&mut out.panels, size, |index, out| {
            let from = index * size;
            for (at, (out, values)) in out.iter_mut().zip(&x.panels[from..]).enumerate() {
                let (panel, row) = ((from + at) / x.rows, (from + at) % x.rows);
                let Some(weight) = weight.get(panel) else { continue };
                for lane in 0..LANES {
                    out[lane] = values[lane] * scales[row] * weight[lane];
                }
            }
        });
    }

    /// Queries and keys, normalised where the model does so and rotated, and values, row by row.
    fn split(&self, plan: &Plan, layer: &Layer, rotation: &[(f32, f32)], work: &mut Work) {
        let Heads { heads, kv_heads, dim } = self.heads();
        let rows = x_rows(plan);
        let (wide, narrow) = (heads * dim, kv_heads * dim);
        let pair = super::matrix::PAIR;
        let (k_at, v_at) = (wide.next_multiple_of(pair), wide.next_multiple_of(pair) + narrow.next_multiple_of(pair));
        let qkv = &work.qkv;
        let chunk = if rows < FEW { rows } else { 16 };
        let rotated = |out: &mut Vec<f32>, from: usize, width: usize, norm: Option<&Vec<f32>>| {
            out.resize(rows * width, 0.0);
            each_piece(out, chunk * width, |index, out| {
                for (at, row) in out.chunks_exact_mut(width).enumerate() {
                    let number = index * chunk + at;
                    qkv.read(number, from, row);
                    let turns = &rotation[number * dim / 2..][..dim / 2];
                    row.chunks_exact_mut(dim).for_each(|head| self.turn(head, turns, norm));
                }
            });
        };
        rotated(&mut work.q, 0, wide, layer.q_norm.as_ref());
        rotated(&mut work.k, k_at, narrow, layer.k_norm.as_ref());
        work.v.resize(rows * narrow, 0.0);
        each_piece(&mut work.v, chunk * narrow, |index, out| {
            out.chunks_exact_mut(narrow).enumerate().for_each(|(at, row)| qkv.read(index * chunk + at, v_at, row));
        });
    }

    fn turn(&self, head: &mut [f32], turns: &[(f32, f32)], norm: Option<&Vec<f32>>) {
        if let Some(norm) = norm {
            let square: f32 = head.iter().map(|x| x * x).sum();
            let scale = 1.0 / (square / head.len() as f32 + self.config.rms_norm_eps as f32).sqrt();
            head.iter_mut().zip(norm).for_each(|(x, weight)| *x *= scale * weight);
        }
        let (low, high) = head.split_at_mut(turns.len());
        for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(turns) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Attention of all rows, in the last layer of those that are kept, into `work.mixed`.
    fn attend(&self, plan: &Plan, kept: &HostLayer, last: bool, work: &mut Work) {
        let heads = self.heads();
        let row = heads.heads * heads.dim;
        if last {
            for (to, from) in plan.keep.iter().enumerate() {
                work.q.copy_within(from * row..(from + 1) * row, to * row);
            }
        }
        let mut jobs = vec![];
        for span in &plan.spans {
            let rows = if last { span.wanted.clone() } else { 0..span.count };
            for from in rows.clone().step_by(QUERIES) {
                let queries = QUERIES.min(rows.end - from);
                jobs.push(Job { start: 0, past: span.past + from, queries, tree: None, pages: Some(&span.pages) });
            }
        }
        let count: usize = jobs.iter().map(|job| job.queries).sum();
        work.out.resize(count * row, 0.0);
        let cost = |job: &Job<'_>| job.queries * (job.past + job.queries);
        let share = jobs.iter().map(cost).sum::<usize>().div_ceil(4 * threads()).max(1);
        let (mut tasks, mut q, mut out) = (vec![], &work.q[..], &mut work.out[..]);
        while !jobs.is_empty() {
            let (mut sum, mut taken) = (0, 0);
            while taken < jobs.len() && (sum < share || threads() == 1) {
                sum += cost(&jobs[taken]);
                taken += 1;
            }
            let rest = jobs.split_off(taken);
            let rows: usize = jobs.iter().map(|job| job.queries).sum();
            let (mine, others) = std::mem::take(&mut out).split_at_mut(rows * row);
            tasks.push((std::mem::replace(&mut jobs, rest), &q[..rows * row], mine));
            (q, out) = (&q[rows * row..], others);
        }
        each_piece(&mut tasks, 1, |_, tasks| tasks.iter_mut().for_each(|(jobs, q, out)| dispatch(kept, heads, jobs, q, out)));
        work.mixed.shape(count, row);
        let rows = work.mixed.rows;
        let size = if count < FEW { work.mixed.panels.len() } else { rows };
        let out = &work.out;
        each_piece(&mut work.mixed.panels, size, |index, panels| {
            for (at, panel) in panels.iter_mut().enumerate() {
                let (channel, number) = ((index * size + at) / rows * LANES, (index * size + at) % rows);
                if number < count && channel < row {
                    let width = LANES.min(row - channel);
                    panel[..width].copy_from_slice(&out[number * row + channel..][..width]);
                }
            }
        });
    }
}

fn x_rows(plan: &Plan) -> usize {
    plan.tokens.len()
}

fn panels(values: &[f32]) -> Vec<Panel> {
    let panel = |chunk: &[f32]| {
        let mut panel = [0.0; LANES];
        panel[..chunk.len()].copy_from_slice(chunk);
        panel
    };
    values.chunks(LANES).map(panel).collect()
}

fn kept_rows(x: &Batch, keep: &[usize], channels: usize) -> Batch {
    let mut kept = Batch::default();
    kept.shape(keep.len(), channels);
    let mut row = vec![0.0; channels];
    for (to, from) in keep.iter().enumerate() {
        x.read(*from, 0, &mut row);
        kept.write(to, &row);
    }
    kept
}

/// Puts keys and values of every slice into its pages.
fn write(plan: &Plan, kept: &mut HostLayer, heads: Heads, work: &Work) {
    let width = heads.kv_heads * heads.dim;
    for span in &plan.spans {
        let mut token = span.past;
        while token < span.past + span.count {
            let count = (PAGE - token % PAGE).min(span.past + span.count - token);
            let from = (span.offset + token - span.past) * width;
            let place = span.pages[token / PAGE] as usize * PAGE + token % PAGE;
            kept.write(place, &work.k[from..from + count * width], &work.v[from..from + count * width]);
            token += count;
        }
    }
}

/// Keys and values of every layer on the host, and room to compute in.
#[derive(Debug)]
pub(crate) struct HostCache {
    layers: Vec<HostLayer>,
    work: Work,
}

#[derive(Debug, Default)]
struct Work {
    normed: Batch,
    qkv: Batch,
    mixed: Batch,
    inner: Batch,
    /// Of the layer at hand, row by row.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
}

impl HostCache {
    /// Room for `pages` pages.
    pub(crate) fn new(config: &ModelConfig, pages: usize) -> HostCache {
        let heads = Heads { heads: config.num_attention_heads, kv_heads: config.num_key_value_heads, dim: config.head_dim };
        let layers = (0..config.num_hidden_layers).map(|_| HostLayer::new(heads, pages * PAGE)).collect();
        HostCache { layers, work: Work::default() }
    }

    /// Overwrites pages that may hold what is no number: where a weight of 0 meets it, the sum is no number either.
    pub(crate) fn scrub(&mut self, pages: &[u32]) {
        for layer in &mut self.layers {
            pages.iter().for_each(|page| layer.clear(*page as usize * PAGE, PAGE));
        }
    }
}
