//! Which tensors a model is made of, and how those of the file lie in those that are computed with.
//!
//! In: a configuration. Out: one table that reading, writing, drawing and computing all go by. A computed tensor is made of one
//! or more of the file's, one below the other: matrices that are applied to the same input are one matrix. The rows of queries and
//! keys are reordered so that the two numbers of a rotary pair are neighbours: scores are sums over pairs, so the order changes
//! nothing, and undoing it gives the file's bits back.

mod encoder;

pub(crate) use encoder::{EncoderAt, EncoderBlockAt};

use crate::ModelConfig;
use tch::Tensor;

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) pairs: Pairs,
}

/// How many leading rows lie in heads whose rotary pairs are reordered, and the width of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairs {
    pub(crate) rows: usize,
    pub(crate) dim: usize,
}

/// One tensor that is computed with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) parts: Vec<Part>,
    /// Whether weight decay falls on it: matrices, not norms or biases.
    pub(crate) decays: bool,
    /// Never moves: it has no gradient and no moments, and takes no adapter.
    pub(crate) frozen: bool,
}

/// A linear layer: places in [`Layout::entries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearAt {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// One layer of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerAt {
    pub(crate) norm: usize,
    pub(crate) qkv: LinearAt,
    pub(crate) q_norm: Option<usize>,
    pub(crate) k_norm: Option<usize>,
    pub(crate) out: LinearAt,
    pub(crate) mlp_norm: usize,
    pub(crate) gate_up: LinearAt,
    pub(crate) down: LinearAt,
}

/// One block of the vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) norm: usize,
    pub(crate) qkv: LinearAt,
    pub(crate) out: LinearAt,
    pub(crate) mlp_norm: usize,
    pub(crate) gate_up: LinearAt,
    pub(crate) down: LinearAt,
}

/// The vision tower and what brings its output to the decoder's width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TowerAt {
    pub(crate) patches: LinearAt,
    pub(crate) blocks: Vec<BlockAt>,
    pub(crate) norm: usize,
    pub(crate) first: LinearAt,
    pub(crate) second: LinearAt,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) entries: Vec<Entry>,
    pub(crate) embed: usize,
    pub(crate) layers: Vec<LayerAt>,
    pub(crate) norm: usize,
    /// The output layer, where it is not the embedding table.
    pub(crate) head: Option<usize>,
    pub(crate) tower: Option<TowerAt>,
    pub(crate) encoder: Option<EncoderAt>,
}

/// A matrix of the file: its name without `.weight`, its rows, and how they are reordered.
type Matrix = (String, usize, Pairs);

impl Layout {
    pub(crate) fn new(config: &ModelConfig) -> Layout {
        let mut table = Table::default();
        let hidden = config.hidden_size;
        let name = |name: &str| format!("{}{name}", config.decoder_prefix());
        let embed = table.plain(&name("model.embed_tokens.weight"), vec![config.vocab_size, hidden], true);
        let layers = (0..config.num_hidden_layers).map(|number| table.layer(config, &name(&format!("model.layers.{number}.")))).collect();
        let norm = table.plain(&name("model.norm.weight"), vec![hidden], false);
        let tied = config.tie_word_embeddings;
        let head = if tied { None } else { Some(table.plain(&name("lm_head.weight"), vec![config.vocab_size, hidden], true)) };
        let vision = config.vision.as_ref();
        let tower = vision.filter(|vision| vision.encoder.is_none()).map(|_| table.tower(config));
        let encoder = vision.and_then(|vision| Some(table.encoder(vision, vision.encoder.as_ref()?)));
        Layout { entries: table.entries, embed, layers, norm, head, tower, encoder }
    }

    /// The first entry of what sees pictures; all that follow belong to it too.
    pub(crate) fn eyes_from(&self) -> Option<usize> {
        self.tower.as_ref().map(|tower| tower.patches.weight).or(self.encoder.as_ref().map(|encoder| encoder.patches.weight))
    }

    /// What moves, in order.
    pub(crate) fn trained(&self) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| !entry.frozen).collect()
    }

    /// Every tensor of the file with its shape, in the order of the computed ones.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.entries.iter().flat_map(|entry| &entry.parts)
    }
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    /// Whether what is added now never moves.
    frozen: bool,
}

impl Table {
    fn add(&mut self, parts: Vec<Part>, decays: bool) -> usize {
        self.entries.push(Entry { parts, decays, frozen: self.frozen });
        self.entries.len() - 1
    }

    fn plain(&mut self, name: &str, shape: Vec<usize>, decays: bool) -> usize {
        self.add(vec![Part { name: name.into(), shape, pairs: Pairs::default() }], decays)
    }

    /// Several matrices over one input of `width`, as one.
    fn linear(&mut self, matrices: &[Matrix], width: &[usize], bias: bool) -> LinearAt {
        let part = |suffix: &str, (name, rows, pairs): &Matrix, rest: &[usize]| {
            let shape = [&[*rows], rest].concat();
            Part { name: format!("{name}.{suffix}"), shape, pairs: *pairs }
        };
        let weight = self.add(matrices.iter().map(|m| part("weight", m, width)).collect(), true);
        let bias = bias.then(|| self.add(matrices.iter().map(|m| part("bias", m, &[])).collect(), false));
        LinearAt { weight, bias }
    }

    fn layer(&mut self, config: &ModelConfig, prefix: &str) -> LayerAt {
        let (hidden, inner, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (wide, kv) = (config.attention_width(), config.num_key_value_heads * dim);
        let name = |part: &str| format!("{prefix}{part}");
        let pairs = |rows: usize| Pairs { rows, dim };
        let plain = |part: &str, rows: usize| (name(part), rows, Pairs::default());
        let norm = self.plain(&name("input_layernorm.weight"), vec![hidden], false);
        let sides =
            [(name("self_attn.q_proj"), wide, pairs(wide)), (name("self_attn.k_proj"), kv, pairs(kv)), plain("self_attn.v_proj", kv)];
        let qkv = self.linear(&sides, &[hidden], config.biases.qkv);
        let mut head_norm = |part: &str| {
            let part = Part { name: name(part), shape: vec![dim], pairs: pairs(dim) };
            config.qk_norm.then(|| self.add(vec![part], false))
        };
        let (q_norm, k_norm) = (head_norm("self_attn.q_norm.weight"), head_norm("self_attn.k_norm.weight"));
        LayerAt {
            norm,
            qkv,
            q_norm,
            k_norm,
            out: self.linear(&[plain("self_attn.o_proj", hidden)], &[wide], config.biases.out),
            mlp_norm: self.plain(&name("post_attention_layernorm.weight"), vec![hidden], false),
            gate_up: self.linear(&[plain("mlp.gate_proj", inner), plain("mlp.up_proj", inner)], &[hidden], config.biases.mlp),
            down: self.linear(&[plain("mlp.down_proj", hidden)], &[inner], config.biases.mlp),
        }
    }

    fn tower(&mut self, config: &ModelConfig) -> TowerAt {
        let vision = config.vision.as_ref().expect("only a model with a tower asks for one");
        let (width, inner) = (vision.hidden_size, vision.intermediate_size);
        let plain = |name: String, rows: usize| (name, rows, Pairs::default());
        let side = vision.patch_size;
        let pixels = [vision.in_channels, vision.temporal_patch_size, side, side];
        let patches = self.linear(&[plain("visual.patch_embed.proj".into(), width)], &pixels, false);
        let mut blocks = vec![];
        for number in 0..vision.depth {
            let name = |part: &str| format!("visual.blocks.{number}.{part}");
            let pairs = Pairs { rows: 2 * width, dim: vision.head_dim() };
            blocks.push(BlockAt {
                norm: self.plain(&name("norm1.weight"), vec![width], false),
                qkv: self.linear(&[(name("attn.qkv"), 3 * width, pairs)], &[width], true),
                out: self.linear(&[plain(name("attn.proj"), width)], &[width], true),
                mlp_norm: self.plain(&name("norm2.weight"), vec![width], false),
                gate_up: self.linear(&[plain(name("mlp.gate_proj"), inner), plain(name("mlp.up_proj"), inner)], &[width], true),
                down: self.linear(&[plain(name("mlp.down_proj"), width)], &[inner], true),
            });
        }
        let wide = width * vision.merged();
        TowerAt {
            patches,
            blocks,
            norm: self.plain("visual.merger.ln_q.weight", vec![width], false),
            first: self.linear(&[plain("visual.merger.mlp.0".into(), wide)], &[wide], true),
            second: self.linear(&[plain("visual.merger.mlp.2".into(), config.hidden_size)], &[wide], true),
        }
    }
}

impl Pairs {
    /// Row `i` and row `i + dim / 2` of each head (a rotary pair) become rows `2 i` and `2 i + 1`.
    pub(crate) fn reorder(self, tensor: &Tensor) -> Tensor {
        self.transposed(tensor, [2, self.dim as i64 / 2])
    }

    /// Undoes [`Pairs::reorder`].
    pub(crate) fn restore(self, tensor: &Tensor) -> Tensor {
        self.transposed(tensor, [self.dim as i64 / 2, 2])
    }

    fn transposed(self, tensor: &Tensor, from: [i64; 2]) -> Tensor {
        if self.rows == 0 {
            return tensor.shallow_clone();
        }
        let (rows, all) = (self.rows as i64, tensor.size()[0]);
        let heads = tensor.narrow(0, 0, rows).reshape([rows / self.dim as i64, from[0], from[1], -1]);
        let mut shape = tensor.size();
        shape[0] = rows;
        let moved = heads.transpose(1, 2).reshape(shape.as_slice());
        if rows == all { moved } else { Tensor::cat(&[moved, tensor.narrow(0, rows, all - rows)], 0) }
    }
}
