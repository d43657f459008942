//! A frozen encoder and the projector behind it: from pixel rows to tokens of the decoder's width.
//!
//! SigLIP's vision transformer (Zhai et al. 2023) and DINOv2's (Oquab et al. 2023), in the order in which transformers computes them.
//! Each picture is encoded alone, so that its features depend on nothing beside it, and they are kept (see [`crate::encoded`]): the
//! encoder never moves, so they are the same for as long as the model lives. Only the projector is computed anew, with a gradient.

use crate::Result;
use crate::config::{Activation, Encoder, VisionConfig};
use crate::layout::{EncoderAt, EncoderBlockAt, LinearAt};
use crate::model::{Model, product};
use crate::picture::{Picture, pixels};
use tch::{Kind, Tensor};

impl Model {
    /// The tokens of pictures, in their order, `[tokens, hidden]`, by way of the encoder.
    pub(crate) fn see_by_encoder(&self, pictures: &[&Picture], vision: &VisionConfig, encoder: &Encoder, at: &EncoderAt) -> Result<Tensor> {
        let mut all = Vec::with_capacity(pictures.len());
        for picture in pictures {
            picture.check(vision).map_err(crate::Error::Options)?;
            let digest = picture.digest();
            all.push(match self.encoded.get(&digest) {
                Some(features) => features,
                None => {
                    let features = tch::no_grad(|| self.encode(picture, vision, encoder, at))?;
                    self.encoded.keep(digest, &features);
                    features
                }
            });
        }
        let features = Tensor::f_cat(&all, 0)?;
        Ok(self.linear(at.second, &self.linear(at.first, &features).gelu("none")))
    }

    /// What the encoder makes of one picture, `[tokens, states * width]`.
    fn encode(&self, picture: &Picture, vision: &VisionConfig, encoder: &Encoder, at: &EncoderAt) -> Result<Tensor> {
        let rows = pixels(&[picture], vision, self.place.device, self.place.kind)?;
        let width = vision.hidden_size as i64;
        let value = |entry: usize| &self.values[entry];
        let kernel = value(at.patches.weight).view([width, -1]);
        let mut x = product(&rows, &kernel, at.patches.bias.map(value));
        if let Some(class) = at.class {
            x = Tensor::f_cat(&[value(class).view([1, width]), x], 0)?;
        }
        x += self.positions_of(picture, vision, encoder, at)?;
        let deepest = encoder.feature_layers.iter().copied().max().unwrap_or(0);
        let mut states = vec![x];
        for block in &at.blocks[..deepest] {
            let next = self.encoder_block(block, &states[states.len() - 1], vision, encoder);
            states.push(next);
        }
        let chosen: Vec<&Tensor> = encoder.feature_layers.iter().map(|layer| &states[*layer]).collect();
        let all = Tensor::f_cat(&chosen, 1)?;
        let from = i64::from(encoder.drops_first);
        Ok(all.narrow(0, from, all.size()[0] - from).contiguous())
    }

    /// A position for each token, `[tokens, width]`: those of the patches are interpolated where the picture has another size than
    /// the encoder was trained on, in f32.
    fn positions_of(&self, picture: &Picture, vision: &VisionConfig, encoder: &Encoder, at: &EncoderAt) -> Result<Tensor> {
        let (width, class) = (vision.hidden_size as i64, encoder.class_tokens() as i64);
        let side = (encoder.image_size / vision.patch_size) as i64;
        let all = self.values[at.positions].view([-1, width]);
        let [_, height, columns] = picture.grid.map(i64::from);
        if [height, columns] == [side, side] {
            return Ok(all);
        }
        let patches = all.narrow(0, class, side * side).to_kind(Kind::Float).view([1, side, side, width]).permute([0, 3, 1, 2]);
        let patches = patches.f_upsample_bicubic2d([height, columns], false, None, None)?.permute([0, 2, 3, 1]).reshape([-1, width]);
        Ok(Tensor::f_cat(&[all.narrow(0, 0, class), patches.to_kind(all.kind())], 0)?)
    }

    fn encoder_block(&self, block: &EncoderBlockAt, x: &Tensor, vision: &VisionConfig, encoder: &Encoder) -> Tensor {
        let (heads, dim) = (vision.num_heads as i64, vision.head_dim() as i64);
        let scaled = |branch: Tensor, scale: Option<usize>| match scale {
            Some(scale) => branch * &self.values[scale],
            None => branch,
        };
        let qkv = self.linear(block.qkv, &self.encoder_norm(x, block.norm, encoder)).view([1, -1, 3, heads, dim]);
        let side = |number: i64| qkv.select(2, number).transpose(1, 2);
        let mixed = Tensor::scaled_dot_product_attention::<Tensor>(&side(0), &side(1), &side(2), None, 0.0, false, None, false);
        let mixed = mixed.transpose(1, 2).reshape([-1, heads * dim]);
        let x = x + scaled(self.linear(block.out, &mixed), block.scale);
        let inner = self.linear(block.first, &self.encoder_norm(&x, block.mlp_norm, encoder));
        let inner = match encoder.activation {
            Activation::Gelu => inner.gelu("none"),
            Activation::GeluTanh => inner.gelu("tanh"),
            Activation::SwiGlu => {
                let sides = inner.chunk(2, 1);
                sides[0].silu() * &sides[1]
            }
        };
        &x + scaled(self.linear(block.second, &inner), block.mlp_scale)
    }

    fn encoder_norm(&self, x: &Tensor, at: LinearAt, encoder: &Encoder) -> Tensor {
        let weight = &self.values[at.weight];
        x.layer_norm(weight.size(), Some(weight), at.bias.map(|bias| &self.values[bias]), encoder.layer_norm_eps, false)
    }
}
