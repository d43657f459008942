//! The model: one decoder for all families, one code for serving and for training.
//!
//! Tokens of any number of sequences lie end to end in one flat batch; only attention knows where a sequence starts, so it
//! is the caller's. What the families differ in is in the configuration; where each tensor lies is in [`crate::layout`].

use crate::encoded::Encoded;
use crate::layout::{Entry, Layout, LinearAt};
use crate::lora::Adapters;
use crate::weights::Weights;
use crate::{ModelConfig, Result};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Attention of one layer. Takes the layer's number, queries `[tokens, heads, dim]`, keys and values `[tokens, kv heads, dim]`;
/// gives `[tokens, heads * dim]`, in the last layer only the rows that are to be kept.
pub(crate) type Attend<'a> = dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Tensor + 'a;

/// What one forward pass takes, on the model's device.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// `[tokens]`, int64.
    pub(crate) tokens: Tensor,
    /// int64: `[tokens]`, or `[3, tokens]` (time, height, width) for a model with eyes. One axis stands for three equal ones.
    pub(crate) positions: Tensor,
    pub(crate) seen: Option<Seen>,
}

/// What stands in place of the embeddings of pictures' tokens.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Rows of the flat batch, int64, none twice.
    pub(crate) rows: Tensor,
    /// One for each of them, `[rows, hidden]`.
    pub(crate) features: Tensor,
}

impl Inputs {
    /// Tokens without pictures.
    pub(crate) fn text(tokens: Tensor, positions: Tensor) -> Inputs {
        Inputs { tokens, positions, seen: None }
    }
}

/// Where a model lies, and the type that it is computed in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) kind: Kind,
}

impl From<Device> for Place {
    fn from(device: Device) -> Place {
        Place { device, kind: Kind::Float }
    }
}

/// Entries whose tensors are read at once.
const AT_ONCE: usize = 32;

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) layout: Arc<Layout>,
    pub(crate) place: Place,
    /// One for each entry of the layout.
    pub(crate) values: Vec<Tensor>,
    /// Where there are any, they alone are trained.
    pub(crate) adapters: Option<Adapters>,
    /// Angle per position of each rotary pair, `[1, dim / 2]`, f32.
    frequencies: Tensor,
    /// The axis of positions that each pair follows, `[dim / 2]`, where there are three.
    axes: Option<Tensor>,
    /// What the frozen encoder made of pictures, where there is one.
    pub(crate) encoded: Encoded,
}

impl Model {
    /// Puts weights of the right shapes onto a device.
    pub(crate) fn new(config: &ModelConfig, weights: &Weights, place: impl Into<Place>) -> Result<Model> {
        Model::from_entry(config, weights, place.into(), 0)
    }

    /// The vision tower alone, for [`Model::see`]; none for a model without eyes.
    pub(crate) fn tower(config: &ModelConfig, weights: &Weights, place: impl Into<Place>) -> Result<Option<Model>> {
        let first = Layout::new(config).eyes_from();
        first.map(|first| Model::from_entry(config, weights, place.into(), first)).transpose()
    }

    /// Only the entries from a number on; those before it are empty.
    fn from_entry(config: &ModelConfig, weights: &Weights, place: Place, first: usize) -> Result<Model> {
        let _guard = tch::no_grad_guard();
        let layout = Layout::new(config);
        let mut values: Vec<Tensor> = (0..first).map(|_| Tensor::zeros([0], (place.kind, place.device))).collect();
        values.extend(computed(&layout.entries[first..].iter().collect::<Vec<_>>(), weights, place)?);
        let frequencies = config.rope.frequencies(config.head_dim);
        let axes = config.rope.axes().map(|axes| Tensor::from_slice(&axes).to_device(place.device));
        let frequencies = upload(&frequencies, &[1, config.head_dim / 2], place.device)?;
        let encoded = Encoded::default();
        Ok(Model { config: config.clone(), layout: Arc::new(layout), place, values, adapters: None, frequencies, axes, encoded })
    }

    /// The trainable tensors, in a fixed order, each with whether weight decay applies to it (matrices, not norms or biases).
    pub(crate) fn parameters(&self) -> Vec<(&Tensor, bool)> {
        match &self.adapters {
            Some(adapters) => adapters.values.iter().map(|value| (value, true)).collect(),
            None => {
                let all = self.values.iter().zip(&self.layout.entries);
                all.filter(|(_, entry)| !entry.frozen).map(|(value, entry)| (value, entry.decays)).collect()
            }
        }
    }

    /// The same weights, in the same memory, with gradients of their own: what one thread differentiates.
    pub(crate) fn alias(&self) -> Model {
        let leaf = |value: &Tensor| value.detach().set_requires_grad(true);
        let adapted = self.adapters.is_some();
        let own = |(value, entry): (&Tensor, &Entry)| if adapted || entry.frozen { value.detach() } else { leaf(value) };
        Model {
            config: self.config.clone(),
            layout: self.layout.clone(),
            place: self.place,
            values: self.values.iter().zip(&self.layout.entries).map(own).collect(),
            adapters: self.adapters.as_ref().map(|adapters| adapters.over(adapters.values.iter().map(leaf).collect())),
            frequencies: self.frequencies.shallow_clone(),
            axes: self.axes.as_ref().map(Tensor::shallow_clone),
            encoded: self.encoded.clone(),
        }
    }

    /// The same model with an adapter merged in. What the adapter leaves alone lies in the same memory.
    pub(crate) fn merged(&self, adapters: &Adapters) -> Model {
        Model {
            config: self.config.clone(),
            layout: self.layout.clone(),
            place: self.place,
            values: adapters.merge(&self.values),
            adapters: None,
            frequencies: self.frequencies.shallow_clone(),
            axes: self.axes.as_ref().map(Tensor::shallow_clone),
            encoded: self.encoded.clone(),
        }
    }

    /// Takes another model's encoder, and what it made of pictures, in place of its own where the two are the same to the bit.
    pub(crate) fn share_encoder(&mut self, other: &Model) {
        let frozen: Vec<usize> = (0..self.layout.entries.len()).filter(|number| self.layout.entries[*number].frozen).collect();
        let same = |number: &usize| self.values[*number].equal(&other.values[*number]);
        if self.place != other.place || self.layout != other.layout || !frozen.iter().all(same) {
            return;
        }
        for number in frozen {
            self.values[number] = other.values[number].shallow_clone();
        }
        self.encoded = other.encoded.clone();
    }

    /// Of each of [`Model::parameters`]; 0 where nothing of the batch went through it, as the tower without pictures.
    pub(crate) fn gradients(&self) -> Vec<Tensor> {
        let gradient = |parameter: &Tensor| {
            let gradient = parameter.grad();
            if gradient.defined() { gradient } else { parameter.detach().zeros_like() }
        };
        self.parameters().into_iter().map(|(parameter, _)| gradient(parameter)).collect()
    }

    /// Hugging Face's tensors, on the host, with adapters merged in.
    pub(crate) fn weights(&self) -> Weights {
        match &self.adapters {
            Some(adapters) => export(&self.layout.entries.iter().collect::<Vec<_>>(), &adapters.merge(&self.values)),
            None => export(&self.layout.entries.iter().collect::<Vec<_>>(), &self.values),
        }
    }

    /// Values that lie like [`Model::parameters`], as an optimiser's moments, on the host under the parameters' names.
    pub(crate) fn named(&self, values: &[Tensor]) -> Weights {
        match &self.adapters {
            Some(adapters) => adapters.named(&self.config, values),
            None => export(&self.layout.trained(), values),
        }
    }

    /// Of tensors under the parameters' names, values that lie like [`Model::parameters`] without adapters, in f32.
    ///
    /// # Errors
    /// One that is missing, has another shape, or belongs to no parameter.
    pub(crate) fn unnamed(&self, named: &Weights) -> Result<Vec<Tensor>> {
        let trained = self.layout.trained();
        let parts = trained.iter().flat_map(|entry| &entry.parts);
        named.check(&parts.map(|part| (part.name.clone(), part.shape.clone())).collect::<Vec<_>>())?;
        tch::no_grad(|| computed(&trained, named, Place { kind: Kind::Float, ..self.place }))
    }

    /// The final hidden states, `[kept tokens, hidden]`. `keep` names the rows that are wanted. The last layer computes queries'
    /// outputs and its feed-forward part for those alone.
    pub(crate) fn forward(&self, inputs: &Inputs, keep: &Tensor, attend: &mut Attend<'_>) -> Tensor {
        let rotation = self.rotation(&inputs.positions);
        let mut x = self.embedded(inputs);
        let layers = self.layout.layers.len();
        for number in 0..layers {
            let [q, k, v] = self.sides(number, &x, &rotation);
            let mixed = attend(number, &q, &k, &v);
            if number + 1 == layers {
                x = x.index_select(0, keep);
            }
            x = self.mixed_in(number, &x, &mixed);
        }
        self.finished(&x)
    }

    /// `[tokens, hidden]`
    pub(crate) fn embedded(&self, inputs: &Inputs) -> Tensor {
        let x = self.values[self.layout.embed].index_select(0, &inputs.tokens);
        match &inputs.seen {
            Some(seen) => x.index_copy(0, &seen.rows, &seen.features.to_kind(self.place.kind)),
            None => x,
        }
    }

    /// Queries, keys and values of a layer, `[tokens, heads, dim]`, from its input.
    pub(crate) fn sides(&self, number: usize, x: &Tensor, rotation: &Tensor) -> [Tensor; 3] {
        let (config, layer) = (&self.config, &self.layout.layers[number]);
        let (heads, kv_heads, dim) = (config.num_attention_heads as i64, config.num_key_value_heads as i64, config.head_dim as i64);
        let count = x.size()[0];
        let qkv = self.linear(layer.qkv, &self.normed(x, layer.norm));
        // Split, not narrowed: on the way back gradients of the parts are put together once.
        let [both, values] = split(&qkv, 1, [(heads + kv_heads) * dim, kv_heads * dim]);
        let (both, values) = (both.view([count, heads + kv_heads, dim]), values.view([count, kv_heads, dim]));
        let both = match (layer.q_norm, layer.k_norm) {
            (Some(q), Some(k)) => {
                let (queries, keys) = (both.narrow(1, 0, heads), both.narrow(1, heads, kv_heads));
                Tensor::cat(&[self.normed(&queries, q), self.normed(&keys, k)], 1)
            }
            _ => both,
        };
        let [queries, keys] = split(&rotate(&both, rotation), 1, [heads, kv_heads]);
        [queries, keys, values]
    }

    /// A layer's output, from its input and what its attention gave for the same rows.
    pub(crate) fn mixed_in(&self, number: usize, x: &Tensor, mixed: &Tensor) -> Tensor {
        let layer = &self.layout.layers[number];
        let x = x + self.linear(layer.out, &mixed.to_kind(self.place.kind));
        let [gate, up] = self.halves(layer.gate_up, &self.normed(&x, layer.mlp_norm));
        &x + self.linear(layer.down, &(gate.silu() * up))
    }

    /// Final hidden states from the last layer's output.
    pub(crate) fn finished(&self, x: &Tensor) -> Tensor {
        self.normed(x, self.layout.norm)
    }

    /// Scores of the next token, `[rows, vocabulary]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Tensor {
        product(hidden, &self.values[self.layout.head.unwrap_or(self.layout.embed)], None)
    }

    /// `e^(i * position * frequency)`, `[tokens, 1, dim / 2]`.
    pub(crate) fn rotation(&self, positions: &Tensor) -> Tensor {
        let positions = positions.to_kind(Kind::Float);
        let angles = match &self.axes {
            Some(axes) if positions.dim() == 2 => positions.index_select(0, axes).transpose(0, 1) * &self.frequencies,
            _ => positions.unsqueeze(1) * &self.frequencies,
        };
        let rotation = Tensor::complex(&angles.cos(), &angles.sin()).unsqueeze(1);
        let factor = self.config.rope.attention_factor();
        if factor == 1.0 { rotation } else { rotation * factor }
    }

    /// Angle per position of each rotary pair, `[1, dim / 2]`, f32.
    pub(crate) fn frequencies(&self) -> &Tensor {
        &self.frequencies
    }

    pub(crate) fn linear(&self, at: LinearAt, x: &Tensor) -> Tensor {
        let y = product(x, &self.values[at.weight], at.bias.map(|bias| &self.values[bias]));
        match &self.adapters {
            Some(adapters) => adapters.add(at.weight, x, y),
            None => y,
        }
    }

    /// Both halves of what a matrix of two gives, `[tokens, out / 2]` each.
    fn halves(&self, at: LinearAt, x: &Tensor) -> [Tensor; 2] {
        let half = self.values[at.weight].size()[0] / 2;
        if self.place.device == Device::Cpu || self.adapters.is_some() {
            return split(&self.linear(at, x), 1, [half, half]);
        }
        // On a GPU as two products: what is computed element by element from halves that lie row by row apart takes twice as long.
        let weights = split(&self.values[at.weight], 0, [half, half]);
        let biases = at.bias.map(|bias| split(&self.values[bias], 0, [half, half]));
        [0, 1].map(|part| product(x, &weights[part], biases.as_ref().map(|biases| &biases[part])))
    }

    fn normed(&self, x: &Tensor, weight: usize) -> Tensor {
        let weight = &self.values[weight];
        x.rms_norm(weight.size(), Some(weight), self.config.rms_norm_eps)
    }
}

fn split(x: &Tensor, dim: i64, sizes: [i64; 2]) -> [Tensor; 2] {
    let mut parts = x.split_with_sizes(sizes, dim);
    let (second, first) = (parts.pop(), parts.pop());
    [first, second].map(|part| part.expect("as many parts as sizes"))
}

/// The tensors that some entries are computed with.
fn computed(entries: &[&Entry], weights: &Weights, place: Place) -> Result<Vec<Tensor>> {
    let mut values = Vec::with_capacity(entries.len());
    for entries in entries.chunks(AT_ONCE) {
        let names: Vec<&str> = entries.iter().flat_map(|entry| &entry.parts).map(|part| part.name.as_str()).collect();
        let mut found = weights.fetch(&names, place.device)?.into_iter();
        for entry in entries {
            let mut parts = Vec::with_capacity(entry.parts.len());
            for part in &entry.parts {
                let tensor = found.next().expect("one was asked for by each name");
                parts.push(part.pairs.reorder(&tensor.f_to_kind(place.kind)?));
            }
            // A copy in any case: weights may be held by the caller too.
            let whole = if parts.len() == 1 { parts[0].copy() } else { Tensor::f_cat(&parts, 0)? };
            values.push(whole.contiguous());
        }
    }
    Ok(values)
}

/// Hugging Face's tensors of some entries, on the host.
fn export(entries: &[&Entry], values: &[Tensor]) -> Weights {
    let mut weights = Weights::default();
    for (entry, value) in entries.iter().zip(values) {
        let value = value.detach().to_device(Device::Cpu);
        let mut from = 0;
        for part in &entry.parts {
            let rows = part.shape[0] as i64;
            let tensor = part.pairs.restore(&value.narrow(0, from, rows));
            from += rows;
            weights.insert(part.name.clone(), tensor.contiguous());
        }
    }
    weights
}

/// Turns neighbouring pairs of `[rows, heads, dim]` by complex numbers `[rows, 1, dim / 2]`, in single precision.
pub(crate) fn rotate(x: &Tensor, rotation: &Tensor) -> Tensor {
    let kind = x.kind();
    let pairs = x.to_kind(Kind::Float).unflatten(-1, [-1, 2]);
    (pairs.contiguous().view_as_complex() * rotation).view_as_real().flatten(-2, -1).to_kind(kind)
}

/// Batches whose rows are a multiple of this, and at least [`CONVOLVED`], go the faster way through [`product`].
pub(crate) const ROWS: usize = 16;
const CONVOLVED: usize = 96;

/// `x · weightᵀ + bias` for `x` of `[rows, in]`. libtorch multiplies f32 matrices with a library that leaves half of the CPU's
/// vector width unused on some makes, while its convolutions use all of it: so on the CPU a larger product is computed as a
/// convolution of one point, over the same memory and with the same result.
pub(crate) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (rows, width, out) = (x.size()[0], x.size()[1], weight.size()[0]);
    if x.device() != Device::Cpu || x.kind() != Kind::Float || rows < CONVOLVED as i64 || rows % ROWS as i64 != 0 {
        return x.linear(weight, bias);
    }
    let image = x.view([ROWS as i64, rows / ROWS as i64, 1, width]).permute([0, 3, 1, 2]);
    let kernel = weight.view([out, width, 1, 1]);
    image.conv2d(&kernel, bias, [1, 1], [0, 0], [1, 1], 1).permute([0, 2, 3, 1]).reshape([rows, out])
}

/// Puts values of a shape onto a device.
pub(crate) fn upload(values: &[f32], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Ok(Tensor::f_from_slice(values)?.f_view(shape.as_slice())?.f_to_device(device)?)
}

/// Brings a tensor's values to the host, row-major.
pub(crate) fn download(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}
