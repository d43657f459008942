//! The tensors of a frozen encoder and of the projector behind it, under the names of LLaVA's files.

use super::{LinearAt, Pairs, Table};
use crate::config::{Activation, Encoder, EncoderKind, VisionConfig};

/// One layer of an encoder: places in [`super::Layout::entries`]. A norm has a weight and a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EncoderBlockAt {
    pub(crate) norm: LinearAt,
    pub(crate) qkv: LinearAt,
    pub(crate) out: LinearAt,
    /// What the branch of attention is multiplied by, where there is such a scale.
    pub(crate) scale: Option<usize>,
    pub(crate) mlp_norm: LinearAt,
    pub(crate) first: LinearAt,
    pub(crate) second: LinearAt,
    pub(crate) mlp_scale: Option<usize>,
}

/// An encoder that never moves, and the projector that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncoderAt {
    pub(crate) patches: LinearAt,
    pub(crate) class: Option<usize>,
    pub(crate) positions: usize,
    pub(crate) blocks: Vec<EncoderBlockAt>,
    pub(crate) first: LinearAt,
    pub(crate) second: LinearAt,
}

const TOWER: &str = "vision_tower.";

impl Table {
    pub(super) fn encoder(&mut self, vision: &VisionConfig, encoder: &Encoder) -> EncoderAt {
        self.frozen = true;
        let (patches, class, positions) = self.embeddings(vision, encoder);
        let blocks = (0..vision.depth).map(|number| self.encoder_block(vision, encoder, number)).collect();
        self.behind(vision, encoder);
        self.frozen = false;
        let (wide, hidden) = (vision.hidden_size * encoder.feature_layers.len(), vision.out_hidden_size);
        let mut linear = |name: &str, width: usize| {
            let matrix = (format!("multi_modal_projector.{name}"), hidden, Pairs::default());
            self.linear(&[matrix], &[width], encoder.projector_bias)
        };
        let (first, second) = (linear("linear_1", wide), linear("linear_2", hidden));
        EncoderAt { patches, class, positions, blocks, first, second }
    }

    /// Patches, class token and positions.
    fn embeddings(&mut self, vision: &VisionConfig, encoder: &Encoder) -> (LinearAt, Option<usize>, usize) {
        let (width, side) = (vision.hidden_size, encoder.image_size / vision.patch_size);
        let kernel = [vision.in_channels, vision.patch_size, vision.patch_size];
        let mut patches = |name: &str| self.linear(&[(format!("{TOWER}embeddings.{name}"), width, Pairs::default())], &kernel, true);
        let name = |part: &str| format!("{TOWER}embeddings.{part}");
        match encoder.kind {
            EncoderKind::Siglip => {
                let patches = patches("patch_embedding");
                (patches, None, self.plain(&name("position_embedding.weight"), vec![side * side, width], true))
            }
            EncoderKind::Dinov2 => {
                let patches = patches("patch_embeddings.projection");
                let class = self.plain(&name("cls_token"), vec![1, 1, width], false);
                let positions = self.plain(&name("position_embeddings"), vec![1, side * side + 1, width], true);
                if encoder.has_unread {
                    self.plain(&name("mask_token"), vec![1, width], false);
                }
                (patches, Some(class), positions)
            }
        }
    }

    fn encoder_block(&mut self, vision: &VisionConfig, encoder: &Encoder, number: usize) -> EncoderBlockAt {
        let (width, inner) = (vision.hidden_size, vision.intermediate_size);
        let dinov2 = encoder.kind == EncoderKind::Dinov2;
        let prefix = if dinov2 { format!("{TOWER}encoder.layer.{number}.") } else { format!("{TOWER}encoder.layers.{number}.") };
        let plain = |name: &str, rows: usize| (format!("{prefix}{name}"), rows, Pairs::default());
        let [norm, mlp_norm] = if dinov2 { ["norm1", "norm2"] } else { ["layer_norm1", "layer_norm2"] };
        let sides = if dinov2 { ["query", "key", "value"] } else { ["q_proj", "k_proj", "v_proj"] };
        let sides = sides.map(|side| plain(&format!("{}.{side}", if dinov2 { "attention.attention" } else { "self_attn" }), width));
        let out = if dinov2 { "attention.output.dense" } else { "self_attn.out_proj" };
        let gated = encoder.activation == Activation::SwiGlu;
        let ([first, second], doubled) =
            if gated { (["mlp.weights_in", "mlp.weights_out"], 2 * inner) } else { (["mlp.fc1", "mlp.fc2"], inner) };
        let mut scale = |name: &str| dinov2.then(|| self.plain(&format!("{prefix}{name}.lambda1"), vec![width], false));
        let (scale, mlp_scale) = (scale("layer_scale1"), scale("layer_scale2"));
        EncoderBlockAt {
            norm: self.encoder_norm(&format!("{prefix}{norm}"), width),
            qkv: self.linear(&sides, &[width], encoder.qkv_bias),
            out: self.linear(&[plain(out, width)], &[width], true),
            scale,
            mlp_norm: self.encoder_norm(&format!("{prefix}{mlp_norm}"), width),
            first: self.linear(&[plain(first, doubled)], &[width], true),
            second: self.linear(&[plain(second, width)], &[inner], true),
            mlp_scale,
        }
    }

    fn encoder_norm(&mut self, name: &str, width: usize) -> LinearAt {
        let weight = self.plain(&format!("{name}.weight"), vec![width], false);
        let bias = Some(self.plain(&format!("{name}.bias"), vec![width], false));
        LinearAt { weight, bias }
    }

    /// What the file has behind the last layer, and no feature goes through.
    fn behind(&mut self, vision: &VisionConfig, encoder: &Encoder) {
        let (width, inner) = (vision.hidden_size, vision.intermediate_size);
        if encoder.kind == EncoderKind::Dinov2 {
            self.encoder_norm(&format!("{TOWER}layernorm"), width);
            return;
        }
        self.encoder_norm(&format!("{TOWER}post_layernorm"), width);
        if !encoder.has_unread {
            return;
        }
        let name = |part: &str| format!("{TOWER}head.{part}");
        self.plain(&name("probe"), vec![1, 1, width], false);
        self.plain(&name("attention.in_proj_weight"), vec![3 * width, width], true);
        self.plain(&name("attention.in_proj_bias"), vec![3 * width], false);
        let matrices = [("attention.out_proj", width, width), ("mlp.fc1", inner, width), ("mlp.fc2", width, inner)];
        for (part, rows, columns) in matrices {
            self.linear(&[(name(part), rows, Pairs::default())], &[columns], true);
        }
        self.encoder_norm(&name("layernorm"), width);
    }
}
