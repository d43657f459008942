//! What LeRobot's normalisation is made from: least, greatest, mean and standard deviation of each column.

use serde_json::{Value, json};

/// Sums over the rows that were added: one place for each element, or one for each colour channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stats {
    count: u64,
    least: Vec<f64>,
    most: Vec<f64>,
    sum: Vec<f64>,
    squares: Vec<f64>,
    /// Of pictures: how many pixels have each value, channel by channel. Their figures are exact, from 0 to 1.
    pixels: Option<Box<[[u64; 256]; 3]>>,
}

impl Stats {
    pub(super) const NAMES: [&str; 5] = ["min", "max", "mean", "std", "count"];

    /// Adds a row.
    pub(super) fn add(&mut self, row: &[f64]) {
        if self.count == 0 {
            (self.least, self.most) = (row.to_vec(), row.to_vec());
            (self.sum, self.squares) = (vec![0.0; row.len()], vec![0.0; row.len()]);
        }
        self.count += 1;
        for (at, value) in row.iter().enumerate() {
            self.least[at] = self.least[at].min(*value);
            self.most[at] = self.most[at].max(*value);
            self.sum[at] += value;
            self.squares[at] += value * value;
        }
    }

    /// Adds a picture, RGB.
    pub(super) fn add_pixels(&mut self, rgb: &[u8]) {
        self.count += 1;
        let pixels = self.pixels.get_or_insert_with(|| Box::new([[0; 256]; 3]));
        for pixel in rgb.chunks_exact(3) {
            for (channel, value) in pixel.iter().enumerate() {
                pixels[channel][usize::from(*value)] += 1;
            }
        }
    }

    pub(super) fn is_of_pixels(&self) -> bool {
        self.pixels.is_some()
    }

    /// Adds what another has seen.
    pub(super) fn merge(&mut self, other: &Stats) {
        if self.count == 0 {
            *self = other.clone();
            return;
        }
        self.count += other.count;
        for at in 0..self.sum.len().min(other.sum.len()) {
            self.least[at] = self.least[at].min(other.least[at]);
            self.most[at] = self.most[at].max(other.most[at]);
            self.sum[at] += other.sum[at];
            self.squares[at] += other.squares[at];
        }
        if let (Some(mine), Some(theirs)) = (&mut self.pixels, &other.pixels) {
            mine.iter_mut().flatten().zip(theirs.iter().flatten()).for_each(|(a, b)| *a += b);
        }
    }

    /// One of [`Stats::NAMES`], element by element.
    pub(super) fn values(&self, what: &str) -> Vec<f64> {
        if what == "count" {
            return vec![self.count as f64];
        }
        if let Some(pixels) = &self.pixels {
            return pixels.iter().map(|channel| of_channel(channel, what)).collect();
        }
        let n = self.count.max(1) as f64;
        let deviation = |(sum, squares): (&f64, &f64)| (squares / n - (sum / n) * (sum / n)).max(0.0).sqrt();
        match what {
            "min" => self.least.clone(),
            "max" => self.most.clone(),
            "mean" => self.sum.iter().map(|sum| sum / n).collect(),
            _ => self.sum.iter().zip(&self.squares).map(deviation).collect(),
        }
    }

    pub(super) fn json(&self) -> Value {
        let told = |what: &str| {
            let values = self.values(what);
            match self.pixels.is_some() && what != "count" {
                true => json!(values.iter().map(|v| json!([[v]])).collect::<Vec<_>>()),
                false if what == "count" => json!([self.count]),
                false => json!(values),
            }
        };
        Value::Object(Stats::NAMES.iter().map(|what| (what.to_string(), told(what))).collect())
    }
}

fn of_channel(counts: &[u64; 256], what: &str) -> f64 {
    let seen = || counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(value, n)| (value as f64 / 255.0, *n as f64));
    let total: f64 = seen().map(|(_, n)| n).sum::<f64>().max(1.0);
    let mean = seen().map(|(value, n)| value * n).sum::<f64>() / total;
    match what {
        "min" => seen().next().map_or(0.0, |(value, _)| value),
        "max" => seen().next_back().map_or(0.0, |(value, _)| value),
        "mean" => mean,
        _ => (seen().map(|(value, n)| (value - mean) * (value - mean) * n).sum::<f64>() / total).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_worked_out_by_hand() {
        let mut first = Stats::default();
        first.add(&[1.0, 0.0]);
        first.add(&[3.0, 0.0]);
        let mut second = Stats::default();
        second.add(&[5.0, 6.0]);
        first.merge(&second);
        assert_eq!(first.values("mean"), [3.0, 2.0]);
        assert_eq!((first.values("min"), first.values("max"), first.values("count")), (vec![1.0, 0.0], vec![5.0, 6.0], vec![3.0]));
        assert!((first.values("std")[0] - (8.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn pixels_count_from_0_to_1_by_channel() {
        let mut stats = Stats::default();
        stats.add_pixels(&[0, 255, 51, 255, 255, 51]);
        assert_eq!((stats.values("mean"), stats.values("std")), (vec![0.5, 1.0, 0.2], vec![0.5, 0.0, 0.0]));
        assert_eq!(stats.json()["min"][0][0][0], 0.0);
        assert_eq!(stats.json()["count"][0], 1);
    }
}
