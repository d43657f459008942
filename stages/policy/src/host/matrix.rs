//! Matrices of weights, cut into pairs of panels, and the product of a batch of rows with one.

use super::tile::{Element, Finish, HEIGHTS, Rows, product};
use super::{Panel, each_piece, threads};
use crate::lanes::LANES;

/// Outputs of a pair of panels.
pub(crate) const PAIR: usize = 2 * LANES;
/// Rows times channels of a block of activations that should stay in a core's own cache.
const BLOCK: usize = 96 * 1536;

/// Activations: `[panels, rows]`. Rows past the batch's own hold anything finite.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) panels: Vec<Panel>,
    pub(crate) rows: usize,
    pub(crate) height: usize,
    /// Rows of the batch itself.
    pub(crate) used: usize,
}

impl Batch {
    /// Makes room for `count` rows of `channels` channels; what it holds is anything.
    pub(crate) fn shape(&mut self, count: usize, channels: usize) {
        self.used = count;
        (self.rows, self.height) = tiling(count);
        self.panels.resize(channels.div_ceil(PAIR) * 2 * self.rows, [0.0; LANES]);
        // A gated product leaves the panel beside an odd last one alone.
        self.panels[channels.div_ceil(LANES) * self.rows..].fill([0.0; LANES]);
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.panels.len() / self.rows.max(1)
    }

    fn view(&self) -> Rows<'_> {
        Rows { x: &self.panels, rows: self.rows, height: self.height }
    }

    /// Writes a row.
    pub(crate) fn write(&mut self, row: usize, values: &[f32]) {
        for (panel, values) in values.chunks(LANES).enumerate() {
            self.panels[panel * self.rows + row][..values.len()].copy_from_slice(values);
        }
    }

    /// Copies a row's channels from `first` on.
    pub(crate) fn read(&self, row: usize, first: usize, into: &mut [f32]) {
        let mut at = 0;
        while at < into.len() {
            let (panel, lane) = ((first + at) / LANES, (first + at) % LANES);
            let count = (LANES - lane).min(into.len() - at);
            into[at..at + count].copy_from_slice(&self.panels[panel * self.rows + row][lane..lane + count]);
            at += count;
        }
    }
}

/// How many rows a batch of `count` is filled up to, and how many of them make a tile.
fn tiling(count: usize) -> (usize, usize) {
    // A tile's weights are read once for all its rows, which costs about as much as a row and a half.
    let cost = |height: &usize| count.div_ceil(*height) * (2 * height + 3);
    let height = HEIGHTS.into_iter().min_by_key(cost).unwrap_or(1);
    (count.div_ceil(height) * height, height)
}

/// Weights, `[pairs, inputs, 2]` panels of outputs, in half the memory where that loses nothing.
#[derive(Debug)]
pub(crate) enum Weights {
    Full(Vec<[f32; LANES]>),
    Upper(Vec<[u16; LANES]>),
}

#[derive(Debug)]
pub(crate) struct Matrix {
    weights: Weights,
    /// Inputs, filled up to whole pairs of panels.
    inputs: usize,
    pairs: usize,
    /// One number for each output, where there is a bias.
    bias: Option<Vec<Panel>>,
}

impl Matrix {
    /// A matrix of parts one below the other, each `[outputs, inputs]` and filled up with zeros to whole pairs of panels.
    pub(crate) fn new(parts: &[&[f32]], inputs: usize) -> Matrix {
        let (weights, pairs) = Matrix::pack(parts, inputs);
        Matrix { weights, inputs: inputs.next_multiple_of(PAIR), pairs, bias: None }
    }

    /// The same with a bias, in parts as the weights.
    pub(crate) fn with_bias(mut self, parts: &[&[f32]]) -> Matrix {
        let mut bias = vec![];
        for part in parts {
            bias.extend_from_slice(part);
            bias.resize(bias.len().next_multiple_of(PAIR), 0.0);
        }
        self.bias = Some(bias.as_chunks::<LANES>().0.to_vec());
        self
    }

    fn pack(parts: &[&[f32]], inputs: usize) -> (Weights, usize) {
        let padded = inputs.next_multiple_of(PAIR);
        let mut panels = vec![];
        for part in parts {
            let rows = part.len() / inputs;
            for pair in 0..rows.div_ceil(PAIR) {
                let from = panels.len();
                panels.resize(from + 2 * padded, [0.0; LANES]);
                for output in 0..PAIR.min(rows - pair * PAIR) {
                    let row = &part[(pair * PAIR + output) * inputs..][..inputs];
                    for (input, value) in row.iter().enumerate() {
                        panels[from + 2 * input + output / LANES][output % LANES] = *value;
                    }
                }
            }
        }
        let pairs = panels.len() / (2 * padded);
        let is_upper = panels.as_flattened().iter().all(|value| value.to_bits() & 0xffff == 0);
        let upper = |panel: &Panel| panel.map(|value| (value.to_bits() >> 16) as u16);
        let weights = if is_upper { Weights::Upper(panels.iter().map(upper).collect()) } else { Weights::Full(panels) };
        (weights, pairs)
    }

    /// A matrix whose panels of outputs alternate between two of the same shape: for a gated product.
    pub(crate) fn gated(gate: &[f32], up: &[f32], inputs: usize) -> Matrix {
        Matrix::new(&[&alternate(gate, up, inputs)], inputs)
    }

    /// A bias for a gated product.
    pub(crate) fn with_gated_bias(self, gate: &[f32], up: &[f32]) -> Matrix {
        self.with_bias(&[&alternate(gate, up, 1)])
    }

    /// Outputs, filled up to whole pairs of panels.
    pub(crate) fn outputs(&self) -> usize {
        self.pairs * PAIR
    }

    /// Copies the weights of one output.
    pub(crate) fn output(&self, output: usize, into: &mut [f32]) {
        let (pair, panel, lane) = (output / PAIR, output / LANES % 2, output % LANES);
        let from = pair * self.inputs * 2 + panel;
        for (input, value) in into.iter_mut().enumerate() {
            *value = match &self.weights {
                Weights::Full(panels) => panels[from + 2 * input][lane],
                Weights::Upper(panels) => f32::from_bits(u32::from(panels[from + 2 * input][lane]) << 16),
            };
        }
    }

    /// `x` times this matrix into `out`, which has been given its shape.
    pub(crate) fn multiply(&self, x: &Batch, finish: Finish, out: &mut Batch) {
        match &self.weights {
            Weights::Full(weights) => self.run(weights, x, finish, out),
            Weights::Upper(weights) => self.run(weights, x, finish, out),
        }
    }

    fn run<E: Element>(&self, weights: &[[E; LANES]], x: &Batch, finish: Finish, out: &mut Batch) {
        debug_assert_eq!(x.count() * LANES, self.inputs);
        let rows = x.view();
        let per_pair = if matches!(finish, Finish::Gated) { rows.rows } else { 2 * rows.rows };
        let share = self.pairs.div_ceil(4 * threads()).max(1);
        let block = (BLOCK / self.inputs / rows.height).max(1) * rows.height;
        each_piece(&mut out.panels[..self.pairs * per_pair], share * per_pair, |index, out| {
            let pairs = index * share..(index * share + out.len() / per_pair);
            let stride = 2 * self.inputs;
            for from in (0..rows.rows).step_by(block) {
                let to = (from + block).min(rows.rows);
                for (pair, out) in pairs.clone().zip(out.chunks_exact_mut(per_pair)) {
                    let bias = self.bias.as_ref().map(|bias| &bias[2 * pair..2 * pair + 2]);
                    product(rows, &weights[pair * stride..(pair + 1) * stride], bias, finish, from, to, out);
                }
            }
        });
    }
}

/// Panels of outputs of two matrices in turn, each filled up with zeros.
fn alternate(gate: &[f32], up: &[f32], inputs: usize) -> Vec<f32> {
    let rows = gate.len() / inputs;
    let mut all = Vec::with_capacity(2 * rows.next_multiple_of(LANES) * inputs);
    for panel in (0..rows).step_by(LANES) {
        for side in [gate, up] {
            let count = LANES.min(rows - panel);
            all.extend_from_slice(&side[panel * inputs..(panel + count) * inputs]);
            all.resize(all.len() + (LANES - count) * inputs, 0.0);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn batch(values: &[f32], channels: usize) -> Batch {
        let mut batch = Batch::default();
        batch.shape(values.len() / channels, channels);
        values.chunks(channels).enumerate().for_each(|(row, values)| batch.write(row, values));
        batch
    }

    fn at(batch: &Batch, row: usize, channel: usize) -> f32 {
        let mut value = [0.0];
        batch.read(row, channel, &mut value);
        value[0]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// Any shape: what the definition gives, and each row the same bits as if it were alone.
        #[test]
        fn products_are_what_the_definition_gives(seed in any::<u32>(), rows in 1usize..40, inputs in 1usize..80, outputs in 1usize..80, upper in any::<bool>()) {
            let x = noise(seed, rows * inputs);
            let mut w = noise(!seed, outputs * inputs);
            if upper {
                w.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits() & 0xffff_0000));
            }
            let matrix = Matrix::new(&[&w], inputs);
            prop_assert_eq!(matches!(matrix.weights, Weights::Upper(_)), upper);
            let x_batch = batch(&x, inputs);
            let mut out = Batch::default();
            out.shape(rows, outputs);
            matrix.multiply(&x_batch, Finish::Store, &mut out);
            for row in 0..rows {
                let alone = batch(&x[row * inputs..][..inputs], inputs);
                let mut out_alone = Batch::default();
                out_alone.shape(1, outputs);
                matrix.multiply(&alone, Finish::Store, &mut out_alone);
                for output in 0..outputs {
                    let exact: f64 = (0..inputs).map(|i| f64::from(x[row * inputs + i]) * f64::from(w[output * inputs + i])).sum();
                    prop_assert!((f64::from(at(&out, row, output)) - exact).abs() < 1e-4);
                    prop_assert_eq!(at(&out, row, output).to_bits(), at(&out_alone, 0, output).to_bits());
                }
            }
        }

        #[test]
        fn gated_products_and_sums_are_what_they_say(seed in any::<u32>(), rows in 1usize..20, inputs in 1usize..40, outputs in 1usize..50) {
            let (x, gate, up) = (noise(seed, rows * inputs), noise(!seed, outputs * inputs), noise(seed ^ 77, outputs * inputs));
            let matrix = Matrix::gated(&gate, &up, inputs);
            let mut out = Batch::default();
            out.shape(rows, outputs);
            matrix.multiply(&batch(&x, inputs), Finish::Gated, &mut out);
            let mut doubled = Batch::default();
            doubled.shape(rows, outputs);
            doubled.panels.fill([1.0; LANES]);
            Matrix::new(&[&gate], inputs).multiply(&batch(&x, inputs), Finish::Add, &mut doubled);
            for row in 0..rows {
                for output in 0..outputs {
                    let sum = |w: &[f32]| (0..inputs).map(|i| f64::from(x[row * inputs + i]) * f64::from(w[output * inputs + i])).sum::<f64>();
                    let (g, u) = (sum(&gate), sum(&up));
                    prop_assert!((f64::from(at(&out, row, output)) - g / (1.0 + (-g).exp()) * u).abs() < 1e-4);
                    prop_assert!((f64::from(at(&doubled, row, output)) - (1.0 + g)).abs() < 1e-4);
                }
            }
        }
    }
}
