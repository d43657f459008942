//! The weights that a new policy starts from: a function of the configuration and a seed alone, the same bits on any machine.

use crate::ModelConfig;
use crate::weights::{Weights, layout};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::Tensor;

/// Standard deviation of the embedding table. It is the output layer too, so it sets how flat the first distribution is.
const EMBEDDING_STD: f64 = 0.02;
/// Standard deviation of a matrix, times the square root of its input width: 0.02 at a width of 900.
const MATRIX_GAIN: f64 = 0.6;

/// What the names of matrices end with that add to the residual stream.
const RESIDUAL: &[&str] = &[
    "o_proj.weight",
    "down_proj.weight",
    "attn.proj.weight",
    "out_proj.weight",
    "output.dense.weight",
    "fc2.weight",
    "weights_out.weight",
];

/// Draws every tensor: norms and scales 1, biases 0, matrices normal. What is added to the residual stream is scaled by
/// `1 / sqrt(2 * layers)`, so that the stream's variance does not grow with depth.
pub(crate) fn draw(config: &ModelConfig, seed: u64) -> Weights {
    let depth = 1.0 / libm::sqrt(2.0 * config.num_hidden_layers as f64);
    let mut weights = Weights::default();
    for (name, shape) in layout(config) {
        let count: usize = shape.iter().product();
        let rows = *shape.first().expect("every tensor has a shape");
        let width = (count / rows) as f64;
        let values = if shape.len() == 1 && (name.ends_with(".weight") || name.ends_with(".lambda1")) {
            vec![1.0; count]
        } else if name.ends_with("bias") {
            vec![0.0; count]
        } else if ["embed_tokens.weight", "lm_head.weight", "position_embedding.weight"].iter().any(|end| name.ends_with(end)) {
            normals(seed, &name, count, EMBEDDING_STD)
        } else {
            let residual = RESIDUAL.iter().any(|end| name.ends_with(end));
            normals(seed, &name, count, MATRIX_GAIN / libm::sqrt(width) * if residual { depth } else { 1.0 })
        };
        let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        weights.insert(name, Tensor::from_slice(&values).view(shape.as_slice()));
    }
    weights
}

/// Normal draws by Box and Muller's method; each tensor has a stream of its own, named by the tensor.
fn normals(seed: u64, name: &str, count: usize, std: f64) -> Vec<f32> {
    let mut key = blake3::Hasher::new();
    key.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*key.finalize().as_bytes());
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(&mut rng)));
        let angle = std::f64::consts::TAU * unit(&mut rng);
        values.push((std * radius * libm::cos(angle)) as f32);
        values.push((std * radius * libm::sin(angle)) as f32);
    }
    values.truncate(count);
    values
}

/// A number in `[0, 1)` of 53 random bits.
pub(crate) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}
