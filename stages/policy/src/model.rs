//! The model: Qwen2's decoder, one code for serving and for training.
//!
//! Tokens of any number of sequences lie end to end in one flat batch; only attention knows where a sequence starts, so it
//! is the caller's. Three matrices of the attention and two of the feed-forward layer are fused, and the rows of queries and
//! keys are reordered so that the two numbers of a rotary pair are neighbours: scores are sums over pairs, so the order
//! changes nothing. [`Model::export`] undoes both, bit for bit.

use crate::weights::{HostTensor, Weights};
use crate::{ModelConfig, Result};
use tch::{Device, Kind, Tensor};

/// Attention of one layer. Takes the layer's number, queries `[tokens, heads, dim]`, keys and values `[tokens, kv heads, dim]`;
/// gives `[tokens, heads * dim]`, in the last layer only the rows that are to be kept.
pub(crate) type Attend<'a> = dyn FnMut(usize, &Tensor, &Tensor, &Tensor) -> Tensor + 'a;

#[derive(Debug)]
struct Layer {
    norm: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    out: Tensor,
    mlp_norm: Tensor,
    gate_up: Tensor,
    down: Tensor,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    embed: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The output layer, where it is not the embedding table.
    head: Option<Tensor>,
    /// Angle per position of each rotary pair, `[1, dim / 2]`.
    frequencies: Tensor,
}

impl Model {
    /// Puts weights of the right shapes onto a device.
    pub(crate) fn new(config: &ModelConfig, weights: &Weights, device: Device) -> Result<Model> {
        let get = |name: &str| -> Result<Tensor> { upload(&weights[name].values, &weights[name].shape, device) };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for number in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{number}.{part}");
            let host = |part: &str| &weights[&name(part)];
            let fused = |suffix: &str| {
                let width = if suffix == "bias" { 1 } else { config.hidden_size };
                let pairs = |part: &str| pair_rows(&host(&format!("self_attn.{part}_proj.{suffix}")).values, config.head_dim(), width);
                let mut all = pairs("q");
                all.extend(pairs("k"));
                all.extend(&host(&format!("self_attn.v_proj.{suffix}")).values);
                all
            };
            let (hidden, inner) = (config.hidden_size, config.intermediate_size);
            let rows = hidden + 2 * config.num_key_value_heads * config.head_dim();
            let gate_up = [&host("mlp.gate_proj.weight").values[..], &host("mlp.up_proj.weight").values[..]].concat();
            layers.push(Layer {
                norm: get(&name("input_layernorm.weight"))?,
                qkv: upload(&fused("weight"), &[rows, hidden], device)?,
                qkv_bias: upload(&fused("bias"), &[rows], device)?,
                out: get(&name("self_attn.o_proj.weight"))?,
                mlp_norm: get(&name("post_attention_layernorm.weight"))?,
                gate_up: upload(&gate_up, &[2 * inner, hidden], device)?,
                down: get(&name("mlp.down_proj.weight"))?,
            });
        }
        let head = if config.tie_word_embeddings { None } else { Some(get("lm_head.weight")?) };
        let half = config.head_dim() / 2;
        let frequency = |pair: usize| libm::pow(config.rope_theta, -(pair as f64) / half as f64) as f32;
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        Ok(Model {
            config: config.clone(),
            embed: get("model.embed_tokens.weight")?,
            layers,
            norm: get("model.norm.weight")?,
            head,
            frequencies: upload(&frequencies, &[1, half], device)?,
        })
    }

    /// The trainable tensors, in a fixed order, each with whether weight decay applies to it (matrices, not norms or biases).
    pub(crate) fn parameters(&self) -> Vec<(&Tensor, bool)> {
        let mut all = vec![(&self.embed, true)];
        for layer in &self.layers {
            all.extend([(&layer.norm, false), (&layer.qkv, true), (&layer.qkv_bias, false), (&layer.out, true)]);
            all.extend([(&layer.mlp_norm, false), (&layer.gate_up, true), (&layer.down, true)]);
        }
        all.push((&self.norm, false));
        all.extend(self.head.iter().map(|head| (head, true)));
        all
    }

    /// The same weights, in the same memory, with gradients of their own: what one thread differentiates.
    pub(crate) fn alias(&self) -> Model {
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        let layer = |l: &Layer| Layer {
            norm: leaf(&l.norm),
            qkv: leaf(&l.qkv),
            qkv_bias: leaf(&l.qkv_bias),
            out: leaf(&l.out),
            mlp_norm: leaf(&l.mlp_norm),
            gate_up: leaf(&l.gate_up),
            down: leaf(&l.down),
        };
        Model {
            config: self.config.clone(),
            embed: leaf(&self.embed),
            layers: self.layers.iter().map(layer).collect(),
            norm: leaf(&self.norm),
            head: self.head.as_ref().map(leaf),
            frequencies: self.frequencies.shallow_clone(),
        }
    }

    /// Hugging Face's tensors of any values that lie like [`Model::parameters`]: the weights, or an optimiser's moments.
    pub(crate) fn export(&self, values: &[Tensor]) -> Weights {
        let config = &self.config;
        let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim());
        let kv = config.num_key_value_heads * dim;
        let mut weights = Weights::new();
        let mut add = |name: String, shape: Vec<usize>, values: Vec<f32>| weights.insert(name, HostTensor { shape, values });
        let mut values = values.iter().map(download);
        let mut next = || values.next().expect("one value for each parameter");
        add("model.embed_tokens.weight".into(), vec![config.vocab_size, hidden], next());
        for number in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{number}.{part}");
            add(name("input_layernorm.weight"), vec![hidden], next());
            for suffix in ["weight", "bias"] {
                let width = if suffix == "bias" { 1 } else { hidden };
                let shape = |rows: usize| if suffix == "bias" { vec![rows] } else { vec![rows, hidden] };
                let fused = next();
                let (q, rest) = fused.split_at(hidden * width);
                let (k, v) = rest.split_at(kv * width);
                add(name(&format!("self_attn.q_proj.{suffix}")), shape(hidden), unpair_rows(q, dim, width));
                add(name(&format!("self_attn.k_proj.{suffix}")), shape(kv), unpair_rows(k, dim, width));
                add(name(&format!("self_attn.v_proj.{suffix}")), shape(kv), v.to_vec());
            }
            add(name("self_attn.o_proj.weight"), vec![hidden, hidden], next());
            add(name("post_attention_layernorm.weight"), vec![hidden], next());
            let gate_up = next();
            let (gate, up) = gate_up.split_at(inner * hidden);
            add(name("mlp.gate_proj.weight"), vec![inner, hidden], gate.to_vec());
            add(name("mlp.up_proj.weight"), vec![inner, hidden], up.to_vec());
            add(name("mlp.down_proj.weight"), vec![hidden, inner], next());
        }
        add("model.norm.weight".into(), vec![hidden], next());
        if self.head.is_some() {
            add("lm_head.weight".into(), vec![config.vocab_size, hidden], next());
        }
        weights
    }

    /// The final hidden states, `[kept tokens, hidden]`. `tokens` and `positions` are int64 and as long as each other; `keep`
    /// names the rows that are wanted. The last layer computes queries' outputs and its feed-forward part for those alone.
    pub(crate) fn forward(&self, tokens: &Tensor, positions: &Tensor, keep: &Tensor, attend: &mut Attend<'_>) -> Tensor {
        let rotation = self.rotation(positions);
        let mut x = self.embedded(tokens);
        for number in 0..self.layers.len() {
            let [q, k, v] = self.sides(number, &x, &rotation);
            let mixed = attend(number, &q, &k, &v);
            if number + 1 == self.layers.len() {
                x = x.index_select(0, keep);
            }
            x = self.mixed_in(number, &x, &mixed);
        }
        self.finished(&x)
    }

    /// `[tokens, hidden]`
    pub(crate) fn embedded(&self, tokens: &Tensor) -> Tensor {
        self.embed.index_select(0, tokens)
    }

    /// Queries, keys and values of a layer, `[tokens, heads, dim]`, from its input.
    pub(crate) fn sides(&self, number: usize, x: &Tensor, rotation: &Tensor) -> [Tensor; 3] {
        let (config, layer) = (&self.config, &self.layers[number]);
        let (heads, kv_heads, dim) = (config.num_attention_heads as i64, config.num_key_value_heads as i64, config.head_dim() as i64);
        let count = x.size()[0];
        let qkv = linear(&self.normed(x, &layer.norm), &layer.qkv, Some(&layer.qkv_bias));
        let rotary = qkv.narrow(1, 0, (heads + kv_heads) * dim).view([count, heads + kv_heads, dim / 2, 2]);
        let rotated = (rotary.view_as_complex() * rotation).view_as_real().view([count, heads + kv_heads, dim]);
        let values = qkv.narrow(1, (heads + kv_heads) * dim, kv_heads * dim).view([count, kv_heads, dim]);
        [rotated.narrow(1, 0, heads), rotated.narrow(1, heads, kv_heads), values]
    }

    /// A layer's output, from its input and what its attention gave for the same rows.
    pub(crate) fn mixed_in(&self, number: usize, x: &Tensor, mixed: &Tensor) -> Tensor {
        let layer = &self.layers[number];
        let x = x + linear(mixed, &layer.out, None);
        let gate_up = linear(&self.normed(&x, &layer.mlp_norm), &layer.gate_up, None).chunk(2, 1);
        &x + linear(&(gate_up[0].silu() * &gate_up[1]), &layer.down, None)
    }

    /// Final hidden states from the last layer's output.
    pub(crate) fn finished(&self, x: &Tensor) -> Tensor {
        self.normed(x, &self.norm)
    }

    /// Scores of the next token, `[rows, vocabulary]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Tensor {
        linear(hidden, self.head.as_ref().unwrap_or(&self.embed), None)
    }

    fn normed(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm([self.config.hidden_size as i64], Some(weight), self.config.rms_norm_eps)
    }

    /// `e^(i * position * frequency)`, `[tokens, 1, dim / 2]`.
    pub(crate) fn rotation(&self, positions: &Tensor) -> Tensor {
        let angles = positions.to_kind(Kind::Float).unsqueeze(1) * &self.frequencies;
        Tensor::complex(&angles.cos(), &angles.sin()).unsqueeze(1)
    }
}

/// Batches whose rows are a multiple of this, and at least [`CONVOLVED`], go the faster way through [`linear`].
pub(crate) const ROWS: usize = 16;
const CONVOLVED: usize = 96;

/// `x · weightᵀ + bias` for `x` of `[rows, in]`. libtorch multiplies f32 matrices with a library that leaves half of the CPU's
/// vector width unused on some makes, while its convolutions use all of it: so on the CPU a larger product is computed as a
/// convolution of one point, over the same memory and with the same result.
fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (rows, width, out) = (x.size()[0], x.size()[1], weight.size()[0]);
    if x.device() != Device::Cpu || rows < CONVOLVED as i64 || rows % ROWS as i64 != 0 {
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

/// Row `i` and row `i + dim / 2` of each head (a rotary pair) become rows `2 i` and `2 i + 1`.
fn pair_rows(values: &[f32], dim: usize, width: usize) -> Vec<f32> {
    let row = |head: usize, i: usize| (head * dim + i / 2 + (i % 2) * (dim / 2)) * width;
    let rows = values.len() / width;
    (0..rows).flat_map(|r| &values[row(r / dim, r % dim)..][..width]).copied().collect()
}

/// Undoes [`pair_rows`].
fn unpair_rows(values: &[f32], dim: usize, width: usize) -> Vec<f32> {
    let row = |head: usize, i: usize| (head * dim + 2 * (i % (dim / 2)) + i / (dim / 2)) * width;
    let rows = values.len() / width;
    (0..rows).flat_map(|r| &values[row(r / dim, r % dim)..][..width]).copied().collect()
}
