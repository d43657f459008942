//! Qwen2.5-VL's vision tower: from pixel rows to tokens of the decoder's width.
//!
//! Patches of all pictures lie end to end. Before the first block they are put into the order of attention's windows, so that a
//! window, like a picture, is a run of rows; after the last one the merged tokens are put back.

use crate::Result;
use crate::config::VisionConfig;
use crate::layout::BlockAt;
use crate::model::{Model, product, rotate};
use crate::picture::{Picture, pixels};
use tch::{Device, Tensor};

/// Of the tower's norms, whatever the decoder's is.
const EPSILON: f64 = 1e-6;

impl Model {
    /// The tokens of pictures, in their order, `[tokens, hidden]`.
    ///
    /// # Errors
    /// [`crate::Error::Options`] for a model without eyes or a picture that does not fit it; [`crate::Error::Torch`].
    pub(crate) fn see(&self, pictures: &[&Picture]) -> Result<Tensor> {
        if let (Some(vision), Some(encoder), Some(at)) = (&self.config.vision, self.config.encoder(), &self.layout.encoder) {
            return self.see_by_encoder(pictures, vision, encoder, at);
        }
        let (Some(vision), Some(tower)) = (&self.config.vision, &self.layout.tower) else {
            return Err(crate::Error::Options("the model has no eyes".into()));
        };
        let device = self.place.device;
        let pixels = pixels(pictures, vision, device, self.place.kind)?;
        let grids: Vec<[u32; 3]> = pictures.iter().map(|picture| picture.grid).collect();
        let windows = Windows::new(vision, &grids, device);
        let kernel = self.values[tower.patches.weight].view([vision.hidden_size as i64, -1]);
        let mut x = product(&pixels, &kernel, None).index_select(0, &windows.order);
        for (number, block) in tower.blocks.iter().enumerate() {
            let whole = vision.fullatt_block_indexes.contains(&number);
            x = self.block(block, &x, &windows.rotation, if whole { &windows.pictures } else { &windows.windows });
        }
        let merged = self.vision_norm(&x, tower.norm).view([-1, (vision.hidden_size * vision.merged()) as i64]);
        let out = self.linear(tower.second, &self.linear(tower.first, &merged).gelu("none"));
        Ok(out.index_select(0, &windows.back))
    }

    fn block(&self, block: &BlockAt, x: &Tensor, rotation: &Tensor, runs: &Runs) -> Tensor {
        let vision = self.config.vision.as_ref().expect("only a model with a tower has blocks");
        let (heads, dim) = (vision.num_heads as i64, vision.head_dim() as i64);
        let qkv = self.linear(block.qkv, &self.vision_norm(x, block.norm)).view([-1, 3, heads, dim]);
        let turned = |side: i64| rotate(&qkv.select(1, side), rotation);
        let mixed = runs.attend(&turned(0), &turned(1), &qkv.select(1, 2));
        let x = x + self.linear(block.out, &mixed);
        let gate_up = self.linear(block.gate_up, &self.vision_norm(&x, block.mlp_norm)).chunk(2, 1);
        &x + self.linear(block.down, &(gate_up[0].silu() * &gate_up[1]))
    }

    fn vision_norm(&self, x: &Tensor, weight: usize) -> Tensor {
        let weight = &self.values[weight];
        x.rms_norm(weight.size(), Some(weight), EPSILON)
    }
}

/// How the patches of some pictures are ordered, and who attends to whom.
struct Windows {
    /// The patch that each row takes.
    order: Tensor,
    /// The merged row of each token, in the pictures' own order.
    back: Tensor,
    /// `e^(i * angle)` of each row's rotary pairs, `[rows, 1, head / 2]`: the first half of them turn with the patch's height, the
    /// second with its width.
    rotation: Tensor,
    windows: Runs,
    pictures: Runs,
}

impl Windows {
    fn new(vision: &VisionConfig, grids: &[[u32; 3]], device: Device) -> Windows {
        let (merge, side) = (vision.spatial_merge_size, vision.window());
        let merged = vision.merged();
        let (mut order, mut places) = (vec![], vec![]);
        let (mut windows, mut pictures) = (vec![], vec![]);
        let mut first = 0;
        for grid in grids {
            let (height, width) = (grid[1] as usize / merge, grid[2] as usize / merge);
            for (top, left) in (0..height).step_by(side).flat_map(|y| (0..width).step_by(side).map(move |x| (y, x))) {
                let (bottom, right) = ((top + side).min(height), (left + side).min(width));
                for (y, x) in (top..bottom).flat_map(|y| (left..right).map(move |x| (y, x))) {
                    order.extend((0..merged).map(|i| ((first + y * width + x) * merged + i) as i64));
                    places.extend((0..merged).map(|i| [y * merge + i / merge, x * merge + i % merge]));
                }
                windows.push((bottom - top) * (right - left) * merged);
            }
            first += height * width;
            pictures.push(height * width * merged);
        }
        let mut back = vec![0; first];
        for (row, patch) in order.iter().step_by(merged).enumerate() {
            back[*patch as usize / merged] = row as i64;
        }
        let frequencies = vision.frequencies();
        let angle = |[y, x]: &[usize; 2]| -> Vec<f32> {
            [y, x].iter().flat_map(|place| frequencies.iter().map(move |f| **place as f32 * f)).collect()
        };
        let angles: Vec<f32> = places.iter().flat_map(angle).collect();
        let angles = Tensor::from_slice(&angles).view([-1, 1, vision.head_dim() as i64 / 2]).to_device(device);
        Windows {
            order: Tensor::from_slice(&order).to_device(device),
            back: Tensor::from_slice(&back).to_device(device),
            rotation: Tensor::complex(&angles.cos(), &angles.sin()),
            windows: Runs::new(&windows, device),
            pictures: Runs::new(&pictures, device),
        }
    }
}

/// Rows in runs that attend within themselves. Runs of one length are computed together.
struct Runs {
    /// Rows of the runs of one length, their number and length.
    groups: Vec<(Tensor, i64, i64)>,
    /// Where each row lies once the groups are put one after the other; none where that is its own place.
    back: Option<Tensor>,
}

impl Runs {
    fn new(lengths: &[usize], device: Device) -> Runs {
        let mut by_length: std::collections::BTreeMap<usize, Vec<usize>> = std::collections::BTreeMap::new();
        let mut start = 0;
        for length in lengths {
            by_length.entry(*length).or_default().push(start);
            start += length;
        }
        let mut placed = vec![];
        let mut groups = vec![];
        for (length, starts) in &by_length {
            let rows: Vec<i64> = starts.iter().flat_map(|start| *start as i64..(*start + *length) as i64).collect();
            groups.push((Tensor::from_slice(&rows).to_device(device), starts.len() as i64, *length as i64));
            placed.extend(rows);
        }
        let mut back = vec![0; placed.len()];
        for (at, row) in placed.iter().enumerate() {
            back[*row as usize] = at as i64;
        }
        let back = (groups.len() > 1).then(|| Tensor::from_slice(&back).to_device(device));
        Runs { groups, back }
    }

    /// Attention within each run, `[rows, heads * dim]` from `[rows, heads, dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let width = q.size()[1] * q.size()[2];
        let mut parts = vec![];
        for (rows, count, length) in &self.groups {
            let side = |x: &Tensor| {
                let x = if self.back.is_some() { x.index_select(0, rows) } else { x.shallow_clone() };
                x.unflatten(0, [*count, *length]).transpose(1, 2)
            };
            let mixed = Tensor::scaled_dot_product_attention::<Tensor>(&side(q), &side(k), &side(v), None, 0.0, false, None, false);
            parts.push(mixed.transpose(1, 2).reshape([count * length, width]));
        }
        match &self.back {
            Some(back) => Tensor::cat(&parts, 0).index_select(0, back),
            None => parts.remove(0),
        }
    }
}
