//! Random small models against what transformers computes from them.
//!
//! The cases lie in `tests/parity/fixtures`; `tests/parity/make.sh` draws others, and ERRAND_PARITY names their folder.

use super::*;
use crate::layout::Layout;
use crate::model::Inputs;
use crate::pass::scores;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Greatest difference of a score, in f32.
const SCORES: f64 = 1e-4;
/// Greatest difference of a gradient, as a share of its norm.
const GRADIENTS: f64 = 1e-4;
/// Where the best two scores are closer than this, either is right.
const CLOSE: f32 = 2e-4;

struct Case {
    name: String,
    folder: PathBuf,
    expected: BTreeMap<String, Tensor>,
}

fn cases(family: &str) -> Vec<Case> {
    crate::set_threads(1);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/fixtures");
    let root = std::env::var_os("ERRAND_PARITY").map_or(committed, PathBuf::from);
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let name = |folder: &Path| folder.file_name().unwrap().to_string_lossy().into_owned();
    let found: Vec<Case> = folders
        .into_iter()
        .filter(|folder| name(folder).rsplit_once('-').is_some_and(|(kind, _)| kind == family))
        .map(|folder| {
            let expected = Tensor::read_safetensors(folder.join("parity.safetensors")).unwrap().into_iter().collect();
            Case { name: name(&folder), folder, expected }
        })
        .collect();
    assert!(!found.is_empty(), "no case of {family} in {}", root.display());
    found
}

impl Case {
    fn trainer(&self) -> Trainer {
        let options = TrainerOptions { weight_decay: 0.0, ..TrainerOptions::default() };
        Trainer::from_folder(&self.folder, options).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn ids(&self, number: usize) -> Vec<u32> {
        Vec::<i64>::try_from(&self.expected[&format!("ids.{number}")]).unwrap().into_iter().map(|id| id as u32).collect()
    }

    /// Both sequences, every token but the first trained.
    fn sequences(&self) -> Vec<Sequence> {
        (0..2)
            .map(|number| {
                let tokens = self.ids(number);
                let trained = vec![Span { start: 1, end: tokens.len() as u32, advantage: 0.0 }];
                Sequence { tokens, trained, ..Sequence::default() }
            })
            .collect()
    }

    fn check_scores(&self) {
        let trainer = self.trainer();
        let _guard = tch::no_grad_guard();
        for number in 0..2 {
            let tokens = self.expected[&format!("ids.{number}")].shallow_clone();
            let positions = Tensor::arange(tokens.size()[0], (Kind::Int64, Device::Cpu));
            let found = scores(&trainer.model, &Inputs::text(tokens, positions));
            let worst = (found - &self.expected[&format!("logits.{number}")]).abs().max().double_value(&[]);
            assert!(worst < SCORES, "{}, sequence {number}: a score is off by {worst:e}", self.name);
        }
    }

    fn check_gradients(&self) {
        let trainer = self.trainer();
        let sequences = self.sequences();
        let targets = sequences.iter().map(Sequence::trained_tokens).sum::<usize>() as f64;
        for as_on_gpu in [false, true] {
            // The trainer's loss is the mean, the reference's the sum.
            let gradients = trainer.gradients(&sequences, as_on_gpu).unwrap();
            let named = trainer.model.export(&gradients);
            let all: f64 = named.names().map(|name| named.get(name).unwrap().square().sum(Kind::Double).double_value(&[])).sum();
            for name in named.names() {
                let (found, expected) = (named.get(name).unwrap() * targets, &self.expected[&format!("grad.{name}")]);
                let (off, size) = ((found - expected).norm().double_value(&[]), expected.norm().double_value(&[]));
                // A gradient that is 0 but for rounding is held against all of them together.
                let allowed = GRADIENTS * size + 1e-7 * all.sqrt() * targets;
                assert!(off <= allowed, "{}, {name} (as on a GPU: {as_on_gpu}): {off:e} of {size:e}", self.name);
            }
            assert_eq!(named.names().count(), Layout::new(trainer.config()).parts().count());
        }
    }

    /// The engine's continuation, and how many places were too close to tell.
    fn check_greedy(&self) -> usize {
        let trainer = self.trainer();
        let mut engine = Engine::new(trainer.config().clone(), EngineOptions { kv_cache_mib: 16, ..EngineOptions::default() }).unwrap();
        engine.load(1, &trainer.weights()).unwrap();
        let reference: Vec<i64> = Vec::try_from(&self.expected["greedy"]).unwrap();
        let gaps: Vec<f32> = Vec::try_from(&self.expected["gap"]).unwrap();
        let reference: Vec<u32> = reference.into_iter().map(|id| id as u32).collect();
        let (mut from, mut close) = (0, 0);
        while from < reference.len() {
            let tokens = [self.ids(0), reference[..from].to_vec()].concat();
            let sampling = SamplingParams { temperature: 0.0, max_tokens: (reference.len() - from) as u32, ..SamplingParams::default() };
            let request = Request { ticket: 1, rollout: 1, tokens, version: 1, sampling, stop_ids: vec![], ..Request::default() };
            engine.submit(request).unwrap();
            let found = drain(&mut engine).remove(&1).unwrap().tokens;
            let Some(at) = found.iter().zip(&reference[from..]).position(|(a, b)| a != b) else { break };
            from += at;
            assert!(gaps[from] < CLOSE, "{}: token {from} is {}, the reference's {}", self.name, found[at], reference[from]);
            (from, close) = (from + 1, close + 1);
        }
        close
    }

    /// What is written back is what was read, and is read again.
    fn check_round_trip(&self) {
        let trainer = self.trainer();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        let again = Trainer::from_folder(folder.path(), TrainerOptions::default()).unwrap();
        assert_eq!(again.config(), trainer.config(), "{}", self.name);
        assert!(again.weights() == trainer.weights(), "{}", self.name);
    }
}

fn check_text(family: &str) {
    let cases = cases(family);
    for case in &cases {
        case.check_scores();
        case.check_gradients();
        case.check_round_trip();
    }
    let close: usize = cases.iter().map(Case::check_greedy).sum();
    println!("{family}: {} cases, {} places too close to tell", cases.len(), close);
}

#[test]
fn parity_qwen2() {
    check_text("qwen2");
}

#[test]
fn parity_qwen3() {
    check_text("qwen3");
}

#[test]
fn parity_llama() {
    check_text("llama");
}
