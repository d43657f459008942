//! One forward or backward pass over a microbatch.
//!
//! On a GPU libtorch differentiates the whole of it. On the CPU attention is ours, and libtorch cannot see through it: there each
//! layer is differentiated in two parts, before and after its attention, and the gradients are handed from part to part. Layer by
//! layer it goes too where memory is short: then a layer keeps its input alone and is computed again on the way back.

use crate::attention::Heads;
use crate::attention::gradient::{self, Whole};
use crate::batch::{Block, Microbatch};
use crate::cache::fetch;
use crate::model::{Inputs, Model, ROWS, Seen};
use crate::objective::{Columns, Sums, chosen};
use crate::picture::Picture;
use tch::{Device, Kind, Tensor};

/// Scores that are in memory at once, `targets * vocabulary`, at most: on the CPU, and on a GPU.
const SCORES: usize = 1 << 25;
const SCORES_ON_GPU: usize = 1 << 28;

/// Targets whose scores are computed at once, a multiple of [`ROWS`].
pub(crate) fn targets_at_once(vocabulary: usize, device: Device) -> usize {
    let scores = if device == Device::Cpu { SCORES } else { SCORES_ON_GPU };
    (scores / vocabulary).max(256) / ROWS * ROWS
}

/// What turns final hidden states into distributions.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) ban: &'a Tensor,
    pub(crate) temperature: f64,
    /// Keep only each layer's input on the way there.
    pub(crate) recompute: bool,
}

/// What is made of log-probabilities of every id at some targets, `[targets, vocabulary]`.
type Loss<'a> = dyn FnMut(&Tensor, &Columns) -> Sums + 'a;

impl Head<'_> {
    /// Log-probabilities of every id after temperature and ban.
    fn distributions(&self, model: &Model, hidden: &Tensor, columns: &Columns) -> Tensor {
        let mut logits = model.logits(hidden).narrow(0, 0, columns.ids.size()[0]);
        if self.temperature > 0.0 && self.temperature != 1.0 {
            logits = logits.to_kind(Kind::Float) / self.temperature;
        }
        // The bans are f32, and so is the sum.
        (logits + self.ban).log_softmax(-1, Kind::Float)
    }

    /// Sums over all targets, some of them at once; without a gradient.
    pub(crate) fn forward(&self, model: &Model, batch: &Microbatch, columns: &Columns, loss: &mut Loss<'_>) -> Option<Sums> {
        let hidden = Pass::new(model, batch, columns).hidden();
        let at_once = targets_at_once(model.config.vocab_size, model.place.device);
        let parts = columns.chunks(at_once).into_iter().map(|(from, rows, columns)| {
            let all = self.distributions(model, &hidden.narrow(0, from, rows), &columns);
            loss(&all, &columns)
        });
        parts.reduce(Sums::plus)
    }

    /// Of each target, `[targets]`; without a gradient.
    pub(crate) fn logprobs(&self, model: &Model, batch: &Microbatch, columns: &Columns) -> Tensor {
        let _guard = tch::no_grad_guard();
        let hidden = Pass::new(model, batch, columns).hidden();
        let at_once = targets_at_once(model.config.vocab_size, model.place.device);
        let parts = columns
            .chunks(at_once)
            .into_iter()
            .map(|(from, rows, columns)| chosen(&self.distributions(model, &hidden.narrow(0, from, rows), &columns), &columns.ids));
        Tensor::cat(&parts.collect::<Vec<_>>(), 0)
    }

    /// The same sums; their gradient is added to the model's.
    pub(crate) fn backward(&self, model: &Model, batch: &Microbatch, columns: &Columns, loss: &mut Loss<'_>) -> Option<Sums> {
        let pass = Pass::new(model, batch, columns);
        if !batch.blocks.is_empty() && !self.recompute {
            let hidden = pass.hidden();
            let (gradient, sums) = self.back_through_scores(model, &hidden, columns, loss);
            hand_on(&hidden, &gradient).backward();
            return sums;
        }
        let embedded = model.embedded(&pass.inputs);
        let mut x = leaf(&embedded);
        let layers = model.config.num_hidden_layers;
        let mut stages = Vec::with_capacity(layers);
        for number in 0..layers {
            // The last layer's graph is wanted at once.
            let again = self.recompute && !pass.last(number);
            let graph = if again { tch::no_grad(|| pass.graph(number, &x)) } else { pass.graph(number, &x) };
            let next = leaf(graph.output());
            stages.push((x, (!again).then_some(graph)));
            x = next;
        }
        let hidden = model.finished(&x);
        let (gradient, sums) = self.back_through_scores(model, &hidden, columns, loss);
        hand_on(&hidden, &gradient).backward();
        for (number, (input, graph)) in stages.into_iter().enumerate().rev() {
            let graph = graph.unwrap_or_else(|| pass.graph(number, &input));
            graph.backward(&x.grad(), &batch.sequences);
            x = input;
        }
        if embedded.requires_grad() {
            hand_on(&embedded, &x.grad()).backward();
        }
        sums
    }

    /// The gradient of the final hidden states, and the sums. Scores of some targets are in memory at once, no more.
    fn back_through_scores(&self, model: &Model, hidden: &Tensor, columns: &Columns, loss: &mut Loss<'_>) -> (Tensor, Option<Sums>) {
        let gradient = hidden.detach().zeros_like();
        let at_once = targets_at_once(model.config.vocab_size, model.place.device);
        let parts = columns.chunks(at_once).into_iter().map(|(from, rows, columns)| {
            let part = leaf(&hidden.narrow(0, from, rows));
            let mut sums = loss(&self.distributions(model, &part, &columns), &columns);
            sums.loss.backward();
            gradient.narrow(0, from, rows).copy_(&part.grad());
            sums.loss = sums.loss.detach();
            sums
        });
        let sums = parts.reduce(Sums::plus);
        (gradient, sums)
    }
}

/// A microbatch on its way through a model.
struct Pass<'a> {
    model: &'a Model,
    batch: &'a Microbatch,
    columns: &'a Columns,
    inputs: Inputs,
    rotation: Tensor,
    /// Who sees whom, block by block; none where each token sees all before it.
    masks: Vec<Option<Tensor>>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Model, batch: &'a Microbatch, columns: &'a Columns) -> Pass<'a> {
        let inputs = inputs(model, batch);
        let rotation = model.rotation(&inputs.positions);
        let masks = batch.blocks.iter().map(|block| mask(batch, block, model)).collect();
        Pass { model, batch, columns, inputs, rotation, masks }
    }

    fn last(&self, number: usize) -> bool {
        number + 1 == self.model.config.num_hidden_layers
    }

    /// Final hidden states at the targets. On a GPU they carry a gradient, where one is wanted.
    fn hidden(&self) -> Tensor {
        self.model.forward(&self.inputs, &self.columns.rows, &mut |layer, q, k, v| {
            let all =
                if self.batch.blocks.is_empty() { self.on_host(&Sides::fetch(self.model, [q, k, v])) } else { self.in_blocks([q, k, v]) };
            if self.last(layer) { all.index_select(0, &self.columns.rows) } else { all }
        })
    }

    fn on_host(&self, sides: &Sides) -> Tensor {
        let width = self.model.config.attention_width() as i64;
        Tensor::from_slice(&gradient::forward(sides.inputs(), &self.batch.sequences)).view([-1, width])
    }

    fn in_blocks(&self, parts: [&Tensor; 3]) -> Tensor {
        let blocks = self.batch.blocks.iter().zip(&self.masks);
        Tensor::cat(&blocks.map(|(block, mask)| rectangle(block, mask.as_ref(), parts)).collect::<Vec<_>>(), 0)
    }

    /// A layer's output, with all that its gradient needs.
    fn graph(&self, number: usize, x: &Tensor) -> Graph {
        let parts = self.model.sides(number, x, &self.rotation);
        let ends = |x: &Tensor| if self.last(number) { x.index_select(0, &self.columns.rows) } else { x.shallow_clone() };
        if !self.batch.blocks.is_empty() {
            let mixed = self.in_blocks([&parts[0], &parts[1], &parts[2]]);
            return Graph::Device { y: self.model.mixed_in(number, &ends(x), &ends(&mixed)) };
        }
        let sides = Sides::fetch(self.model, [&parts[0], &parts[1], &parts[2]]);
        let mixed = leaf(&self.on_host(&sides));
        let mut out = vec![];
        fetch(&mixed.detach(), &mut out);
        let y = self.model.mixed_in(number, &ends(x), &ends(&mixed));
        Graph::Host { parts, sides, out, mixed, y }
    }
}

/// One layer on its way back.
enum Graph {
    /// libtorch differentiates all of it.
    Device { y: Tensor },
    Host {
        /// Queries, keys and values, made from the input.
        parts: [Tensor; 3],
        sides: Sides,
        out: Vec<f32>,
        /// Attention's output, with a gradient of its own.
        mixed: Tensor,
        /// The layer's output, made from its input and `mixed`.
        y: Tensor,
    },
}

impl Graph {
    fn output(&self) -> &Tensor {
        match self {
            Graph::Device { y } | Graph::Host { y, .. } => y,
        }
    }

    /// Takes the gradient of the layer's output to its input and weights.
    fn backward(&self, y_gradient: &Tensor, sequences: &[Whole]) {
        hand_on(self.output(), y_gradient).backward();
        let Graph::Host { parts, sides, out, mixed, .. } = self else { return };
        let mut out_gradient = vec![];
        fetch(&mixed.grad(), &mut out_gradient);
        let gradients = gradient::backward(sides.inputs(), sequences, out, &out_gradient);
        let [q, k, v] = parts;
        let whole = |part: &Tensor, gradient: &[f32]| hand_on(part, &Tensor::from_slice(gradient).view_as(part));
        (whole(q, &gradients.q) + whole(k, &gradients.k) + whole(v, &gradients.v)).backward();
    }
}

/// Scores of the next token after each token of one sequence, `[tokens, vocabulary]`, without temperature and ban.
pub(crate) fn scores(model: &Model, batch: &Microbatch) -> Tensor {
    let count = batch.tokens.len();
    let sequences = vec![Whole { offset: 0, len: count, tree: vec![] }];
    let on_host = model.place.device == Device::Cpu;
    let blocks = if on_host { vec![] } else { vec![Block { offset: 0, first: 0, rows: 1, len: count }] };
    let batch = Microbatch { sequences, blocks, ..batch.clone() };
    let columns = Columns::of_rows(count, model.place.device);
    model.logits(&Pass::new(model, &batch, &columns).hidden())
}

/// Queries, keys and values on the host.
struct Sides {
    heads: Heads,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Sides {
    fn fetch(model: &Model, parts: [&Tensor; 3]) -> Sides {
        let config = &model.config;
        let heads = Heads { heads: config.num_attention_heads, kv_heads: config.num_key_value_heads, dim: config.head_dim() };
        let [q, k, v] = parts.map(|part| {
            let mut values = vec![];
            fetch(&part.detach().to_kind(Kind::Float), &mut values);
            values
        });
        Sides { heads, q, k, v }
    }

    fn inputs(&self) -> gradient::Inputs<'_> {
        gradient::Inputs { heads: self.heads, q: &self.q, k: &self.k, v: &self.v }
    }
}

/// A batch on the model's device; its pictures go through the tower, where they carry a gradient if the weights do.
fn inputs(model: &Model, batch: &Microbatch) -> Inputs {
    let device = model.place.device;
    let tokens = Tensor::from_slice(&batch.tokens).to_device(device);
    let axis = |axis: usize| -> Vec<i64> { batch.positions.iter().map(|p| p[axis]).collect() };
    let positions = match model.config.rope.sections {
        Some(_) => Tensor::from_slice(&[axis(0), axis(1), axis(2)].concat()).view([3, -1]).to_device(device),
        None => Tensor::from_slice(&axis(0)).to_device(device),
    };
    let Some(vision) = model.config.vision.as_ref().filter(|_| !batch.pictures.is_empty()) else {
        return Inputs::text(tokens, positions);
    };
    let rows: Vec<i64> = batch.pictures.iter().flat_map(|(row, picture)| *row as i64..(row + picture.tokens(vision)) as i64).collect();
    let shown: Vec<&Picture> = batch.pictures.iter().map(|(_, picture)| picture).collect();
    let features = model.see(&shown).expect("pictures were checked when they were taken up");
    Inputs { tokens, positions, seen: Some(Seen { rows: Tensor::from_slice(&rows).to_device(device), features }) }
}

fn leaf(value: &Tensor) -> Tensor {
    value.detach().set_requires_grad(true)
}

/// A number whose gradient with respect to `value` is `gradient`.
fn hand_on(value: &Tensor, gradient: &Tensor) -> Tensor {
    (value * gradient).sum(Kind::Float)
}

fn mask(batch: &Microbatch, block: &Block, model: &Model) -> Option<Tensor> {
    let (rows, len) = (block.rows as i64, block.len as i64);
    let mask = Tensor::from_slice(&batch.mask(block)?).view([rows, 1, len, len]);
    Some(mask.to_device(model.place.device).to_kind(model.place.kind))
}

/// Attention of one block by libtorch, `[tokens, heads * dim]`.
fn rectangle(block: &Block, mask: Option<&Tensor>, parts: [&Tensor; 3]) -> Tensor {
    let (offset, rows, len) = (block.offset as i64, block.rows as i64, block.len as i64);
    let [q, k, v] = parts.map(|x| x.narrow(0, offset, rows * len).unflatten(0, [rows, len]).transpose(1, 2));
    let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, mask.is_none(), None, true);
    mixed.transpose(1, 2).reshape([rows * len, -1])
}
