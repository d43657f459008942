//! One forward or backward pass over a microbatch.
//!
//! On a GPU libtorch differentiates the whole of it. On the CPU attention is ours, and libtorch cannot see through it: there each
//! layer is differentiated in two parts, before and after its attention, and the gradients are handed from part to part.

use crate::attention::Heads;
use crate::attention::gradient::{self, Whole};
use crate::batch::{Block, Microbatch};
use crate::cache::fetch;
use crate::model::{Inputs, Model, Seen};
use crate::objective::Columns;
use crate::picture::Picture;
use tch::{Device, Kind, Tensor};

/// Log-probabilities of every id at each target, `[targets, vocabulary]`, after temperature and ban.
pub(crate) struct Head<'a> {
    pub(crate) ban: &'a Tensor,
    pub(crate) temperature: f64,
}

impl Head<'_> {
    fn distributions(&self, model: &Model, hidden: &Tensor, columns: &Columns) -> Tensor {
        let mut logits = model.logits(hidden).narrow(0, 0, columns.ids.size()[0]);
        if self.temperature > 0.0 && self.temperature != 1.0 {
            logits = &logits / self.temperature;
        }
        (logits + self.ban).log_softmax(-1, Kind::Float)
    }

    /// The distributions at the targets. On a GPU they carry a gradient, where one is wanted.
    pub(crate) fn forward(&self, model: &Model, batch: &Microbatch, columns: &Columns) -> Tensor {
        let device = columns.ids.device();
        let inputs = inputs(model, batch);
        let last = model.config.num_hidden_layers - 1;
        let width = model.config.attention_width() as i64;
        let masks: Vec<Option<Tensor>> = batch.blocks.iter().map(|b| mask(batch, b, device)).collect();
        let hidden = model.forward(&inputs, &columns.rows, &mut |layer, q, k, v| {
            let all = if batch.blocks.is_empty() {
                let sides = Sides::fetch(model, [q, k, v]);
                Tensor::from_slice(&gradient::forward(sides.inputs(), &batch.sequences)).view([-1, width])
            } else {
                let parts: Vec<Tensor> =
                    batch.blocks.iter().zip(&masks).map(|(block, mask)| rectangle(block, mask.as_ref(), [q, k, v])).collect();
                Tensor::cat(&parts, 0)
            };
            if layer == last { all.index_select(0, &columns.rows) } else { all }
        });
        self.distributions(model, &hidden, columns)
    }

    /// Adds the gradient of `loss` to the model's, on the CPU. `loss` takes the distributions; what it gives beside is given back.
    pub(crate) fn backward<T>(&self, model: &Model, batch: &Microbatch, columns: &Columns, loss: impl FnOnce(&Tensor) -> (Tensor, T)) -> T {
        let inputs = inputs(model, batch);
        let rotation = model.rotation(&inputs.positions);
        let layers = model.config.num_hidden_layers;
        let embedded = model.embedded(&inputs);
        let mut x = leaf(&embedded);
        let mut stages = Vec::with_capacity(layers);
        for number in 0..layers {
            let parts = model.sides(number, &x, &rotation);
            let sides = Sides::fetch(model, [&parts[0], &parts[1], &parts[2]]);
            let out = gradient::forward(sides.inputs(), &batch.sequences);
            let mixed = leaf(&Tensor::from_slice(&out).view([-1, model.config.attention_width() as i64]));
            let y = if number + 1 == layers {
                model.mixed_in(number, &x.index_select(0, &columns.rows), &mixed.index_select(0, &columns.rows))
            } else {
                model.mixed_in(number, &x, &mixed)
            };
            let next = leaf(&y);
            stages.push(Stage { x, parts, sides, out, mixed, y });
            x = next;
        }
        let (loss, rest) = loss(&self.distributions(model, &model.finished(&x), columns));
        loss.backward();
        for stage in stages.into_iter().rev() {
            stage.backward(&x.grad(), &batch.sequences);
            x = stage.x;
        }
        hand_on(&embedded, &x.grad()).backward();
        rest
    }
}

/// Scores of the next token after each token of one sequence, `[tokens, vocabulary]`, without temperature and ban.
pub(crate) fn scores(model: &Model, inputs: &Inputs) -> Tensor {
    let device = model.place.device;
    let count = inputs.tokens.size()[0];
    let keep = Tensor::arange(count, (Kind::Int64, device));
    let whole = Whole { offset: 0, len: count as usize, tree: vec![] };
    let block = Block { offset: 0, first: 0, rows: 1, len: count as usize };
    let hidden = model.forward(inputs, &keep, &mut |_, q, k, v| {
        if device == Device::Cpu {
            let sides = Sides::fetch(model, [q, k, v]);
            Tensor::from_slice(&gradient::forward(sides.inputs(), std::slice::from_ref(&whole))).view([count, -1])
        } else {
            rectangle(&block, None, [q, k, v])
        }
    });
    model.logits(&hidden)
}

/// One layer on its way back.
struct Stage {
    /// Its input, with a gradient of its own.
    x: Tensor,
    /// Queries, keys and values, made from `x`.
    parts: [Tensor; 3],
    sides: Sides,
    out: Vec<f32>,
    /// Attention's output, with a gradient of its own.
    mixed: Tensor,
    /// The layer's output, made from `x` and `mixed`.
    y: Tensor,
}

impl Stage {
    /// Takes the gradient of the layer's output to its input and weights.
    fn backward(&self, y_gradient: &Tensor, sequences: &[Whole]) {
        hand_on(&self.y, y_gradient).backward();
        let mut out_gradient = vec![];
        fetch(&self.mixed.grad(), &mut out_gradient);
        let gradients = gradient::backward(self.sides.inputs(), sequences, &self.out, &out_gradient);
        let [q, k, v] = &self.parts;
        let whole = |part: &Tensor, gradient: &[f32]| hand_on(part, &Tensor::from_slice(gradient).view_as(part));
        (whole(q, &gradients.q) + whole(k, &gradients.k) + whole(v, &gradients.v)).backward();
    }
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
            fetch(&part.detach(), &mut values);
            values
        });
        Sides { heads, q, k, v }
    }

    fn inputs(&self) -> gradient::Inputs<'_> {
        gradient::Inputs { heads: self.heads, q: &self.q, k: &self.k, v: &self.v }
    }
}

/// A batch on the model's device; its pictures go through the tower, where they carry a gradient if the weights do.
pub(crate) fn inputs(model: &Model, batch: &Microbatch) -> Inputs {
    let device = model.place.device;
    let tokens = Tensor::from_slice(&batch.tokens).to_device(device);
    let axis = |axis: usize| -> Vec<i64> { batch.positions.iter().map(|p| p[axis]).collect() };
    let Some(vision) = &model.config.vision else {
        return Inputs::text(tokens, Tensor::from_slice(&axis(0)).to_device(device));
    };
    let positions = Tensor::from_slice(&[axis(0), axis(1), axis(2)].concat()).view([3, -1]).to_device(device);
    if batch.pictures.is_empty() {
        return Inputs::text(tokens, positions);
    }
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

fn mask(batch: &Microbatch, block: &Block, device: Device) -> Option<Tensor> {
    let (rows, len) = (block.rows as i64, block.len as i64);
    Some(Tensor::from_slice(&batch.mask(block)?).view([rows, 1, len, len]).to_device(device))
}

/// Attention of one block by libtorch, `[tokens, heads * dim]`.
fn rectangle(block: &Block, mask: Option<&Tensor>, parts: [&Tensor; 3]) -> Tensor {
    let (offset, rows, len) = (block.offset as i64, block.rows as i64, block.len as i64);
    let [q, k, v] = parts.map(|x| x.narrow(0, offset, rows * len).unflatten(0, [rows, len]).transpose(1, 2));
    let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0.0, mask.is_none(), None, true);
    mixed.transpose(1, 2).reshape([rows * len, -1])
}
