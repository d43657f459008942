//! Random small models against what transformers computes from them.
//!
//! The cases lie in `tests/parity/fixtures`; `tests/parity/make.sh` draws others, and ERRAND_PARITY names their folder.

use super::*;
use crate::batch::Microbatch;
use crate::pass::scores;
use crate::picture::positions;
use crate::{Levels, Picture, Shown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Kind, Tensor};

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

/// The greatest distances that were found.
#[derive(Default)]
struct Worst {
    score: f64,
    gradient: f64,
    /// Places too close to tell.
    close: usize,
}

impl Worst {
    /// Holds a case's scores and gradients, and keeps the greatest distances.
    fn take(&mut self, case: &Case) {
        self.score = self.score.max(case.check_scores());
        self.gradient = self.gradient.max(case.check_gradients());
    }

    fn print(&self, family: &str, cases: usize) {
        let Worst { score, gradient, close } = self;
        println!("{family}: {cases} cases, scores within {score:.1e}, gradients within {gradient:.1e}, {close} places too close to tell");
    }
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
        self.trainer_with(TrainerOptions::default())
    }

    fn trainer_with(&self, options: TrainerOptions) -> Trainer {
        let mut trainer = Trainer::from_folder(&self.folder, options).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        if self.name.starts_with("lora") {
            trainer.load_adapter(&self.folder.join("adapter")).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        }
        trainer
    }

    fn ids(&self, number: usize) -> Vec<u32> {
        Vec::<i64>::try_from(&self.expected[&format!("ids.{number}")]).unwrap().into_iter().map(|id| id as u32).collect()
    }

    /// A sequence's pictures, cut by our own processor.
    fn pictures(&self, number: usize, config: &ModelConfig) -> Vec<Picture> {
        let Some(vision) = &config.vision else { return vec![] };
        let (patch, merge) = (vision.patch_size as u32, vision.spatial_merge_size as u32);
        let written = std::fs::read(self.folder.join("preprocessor_config.json"));
        let area = u64::from(patch * merge).pow(2);
        let settings = match written {
            Ok(json) => context::ImageSettings { patch, merge, ..context::ImageSettings::from_json(&json).unwrap() },
            Err(_) => context::ImageSettings { patch, merge, min_pixels: area, max_pixels: 12 * area, ..Default::default() },
        };
        let levels = Levels(Arc::new(settings.levels()));
        let offsets: Vec<i64> = Vec::try_from(&self.expected[&format!("offset.{number}")]).unwrap();
        let grids = &self.expected[&format!("grid.{number}")];
        let picture = |(i, offset): (usize, &i64)| {
            let image = &self.expected[&format!("image.{number}.{i}")];
            let [height, width] = [image.size()[0] as u32, image.size()[1] as u32];
            let pixels = Vec::try_from(image.flatten(0, -1)).unwrap();
            let patches = settings.patches(&context::image::Rgb { width, height, pixels }).unwrap();
            let expected: Vec<i64> = Vec::try_from(grids.get(i as i64)).unwrap();
            assert_eq!(patches.grid.map(i64::from).to_vec(), expected, "{}: picture {i}", self.name);
            Picture { offset: *offset as u32, grid: patches.grid, patches: patches.bytes.into(), levels: levels.clone() }
        };
        offsets.iter().enumerate().map(picture).collect()
    }

    /// The first sequence's pictures, as a request shows them.
    fn shown(&self, config: &ModelConfig) -> Vec<Shown> {
        self.pictures(0, config).into_iter().map(|picture| Shown { digest: picture.digest(), picture }).collect()
    }

    /// What the engine never samples: the last five ids of a case with eyes.
    fn vision_ids(&self, config: &ModelConfig) -> Vec<u32> {
        let count = config.vocab_size as u32;
        if config.vision.is_some() { (count - 5..count).collect() } else { vec![] }
    }

    /// Both sequences; every token but the first and those of pictures is trained.
    fn sequences(&self, config: &ModelConfig) -> Vec<Sequence> {
        let sequence = |number: usize| {
            let (tokens, pictures) = (self.ids(number), self.pictures(number, config));
            let shown = |at: usize| {
                let vision = config.vision.as_ref();
                pictures.iter().any(|p| (p.offset as usize..p.end(vision.expect("there are pictures"))).contains(&at))
            };
            let words = (1..tokens.len()).filter(|at| !shown(*at)).map(|at| at as u32);
            let trained = words.map(|at| Span { start: at, end: at + 1, advantage: 0.0 }).collect();
            Sequence { tokens, trained, pictures, ..Sequence::default() }
        };
        (0..2).map(sequence).collect()
    }

    fn check_scores(&self) -> f64 {
        self.check_scores_of(&self.trainer())
    }

    /// Gives the greatest difference.
    fn check_scores_of(&self, trainer: &Trainer) -> f64 {
        let _guard = tch::no_grad_guard();
        let mut all = 0.0f64;
        for number in 0..2 {
            let tokens = self.ids(number).into_iter().map(i64::from).collect();
            let pictures = self.pictures(number, trainer.config());
            let found = scores(&trainer.model, &whole(tokens, pictures, trainer.config()));
            let worst = (found - &self.expected[&format!("logits.{number}")]).abs().max().double_value(&[]);
            assert!(worst < SCORES, "{}, sequence {number}: a score is off by {worst:e}", self.name);
            all = all.max(worst);
        }
        all
    }

    /// Gives the greatest difference of a gradient, beyond what is allowed to one that is 0 but for rounding, as a share of its norm.
    fn check_gradients(&self) -> f64 {
        let mut worst = 0.0f64;
        let sequences = self.sequences(self.trainer().config());
        let targets = sequences.iter().map(Sequence::trained_tokens).sum::<usize>() as f64;
        for (as_on_gpu, recompute) in [(false, false), (true, false), (false, true), (true, true)] {
            let trainer = self.trainer_with(TrainerOptions { recompute, ..TrainerOptions::default() });
            // The trainer's loss is the mean, the reference's the sum.
            let gradients = trainer.gradients(&sequences, as_on_gpu).unwrap();
            let named = trainer.model.named(&gradients);
            let all: f64 = named.names().map(|name| named.get(name).unwrap().square().sum(Kind::Double).double_value(&[])).sum();
            for name in named.names() {
                let (found, expected) = (named.get(name).unwrap() * targets, &self.expected[&format!("grad.{name}")]);
                let (off, size) = ((found - expected).norm().double_value(&[]), expected.norm().double_value(&[]));
                // A gradient that is 0 but for rounding is held against all of them together.
                let slack = 1e-7 * all.sqrt() * targets;
                worst = worst.max(if off > slack { (off - slack) / size } else { 0.0 });
                assert!(
                    off <= GRADIENTS * size + slack,
                    "{}, {name} (as on a GPU: {as_on_gpu}, again: {recompute}): {off:e} of {size:e}",
                    self.name
                );
            }
            let given = self.expected.keys().filter(|key| key.starts_with("grad.")).count();
            assert_eq!(named.names().count(), given, "{}", self.name);
        }
        worst
    }

    fn check_positions(&self) {
        let config = self.trainer().config().clone();
        for number in 0..2 {
            let pictures = self.pictures(number, &config);
            let (found, _) = positions(self.ids(number).len(), &pictures, config.vision.as_ref());
            let expected = self.expected[&format!("position.{number}")].transpose(0, 1).contiguous();
            assert_eq!(Tensor::from_slice(found.as_flattened()).view_as(&expected), expected, "{}", self.name);
        }
    }

    /// The best token after each of the reference's, in one pass, and how many places were too close to tell.
    fn check_forced(&self) -> usize {
        let trainer = self.trainer();
        let _guard = tch::no_grad_guard();
        let (prompt, config) = (self.ids(0), trainer.config());
        let reference: Vec<i64> = Vec::try_from(&self.expected["greedy"]).unwrap();
        let gaps: Vec<f32> = Vec::try_from(&self.expected["gap"]).unwrap();
        let tokens = prompt.iter().map(|id| i64::from(*id)).chain(reference.iter().copied()).collect();
        let all = scores(&trainer.model, &whole(tokens, self.pictures(0, config), config));
        let words = (config.vocab_size - self.vision_ids(config).len()) as i64;
        let best = all.narrow(1, 0, words).narrow(0, prompt.len() as i64 - 1, reference.len() as i64).argmax(1, false);
        let best: Vec<i64> = Vec::try_from(best).unwrap();
        let differing: Vec<usize> = (0..best.len()).filter(|at| best[*at] != reference[*at]).collect();
        assert!(differing.iter().all(|at| gaps[*at] < CLOSE), "{}: tokens {differing:?}", self.name);
        differing.len()
    }

    /// The engine's continuation, and how many places were too close to tell.
    fn check_greedy(&self) -> usize {
        let trainer = self.trainer();
        let options = EngineOptions { kv_cache_mib: 16, banned: self.vision_ids(trainer.config()), ..EngineOptions::default() };
        let mut engine = Engine::new(trainer.config().clone(), options).unwrap();
        engine.load(1, &trainer.weights()).unwrap();
        let pictures = self.shown(trainer.config());
        let reference: Vec<i64> = Vec::try_from(&self.expected["greedy"]).unwrap();
        let gaps: Vec<f32> = Vec::try_from(&self.expected["gap"]).unwrap();
        let reference: Vec<u32> = reference.into_iter().map(|id| id as u32).collect();
        let (mut from, mut close) = (0, 0);
        while from < reference.len() {
            let tokens = [self.ids(0), reference[..from].to_vec()].concat();
            let sampling = SamplingParams { temperature: 0.0, max_tokens: (reference.len() - from) as u32, ..SamplingParams::default() };
            let pictures = pictures.clone();
            let request = Request { ticket: 1, rollout: 1, tokens, pictures, version: 1, sampling, ..Request::default() };
            engine.submit(request).unwrap();
            let found = drain(&mut engine).remove(&1).unwrap().tokens;
            let Some(at) = found.iter().zip(&reference[from..]).position(|(a, b)| a != b) else { break };
            from += at;
            assert!(gaps[from] < CLOSE, "{}: token {from} is {}, the reference's {}", self.name, found[at], reference[from]);
            (from, close) = (from + 1, close + 1);
        }
        close
    }

    /// What the engine says of its tokens, by the CPU's decoder or libtorch, against a fresh pass of the trainer.
    fn check_serving(&self) {
        let config = self.trainer().config().clone();
        let banned = self.vision_ids(&config);
        let trainer = self.trainer_with(TrainerOptions { banned: banned.clone(), ..TrainerOptions::default() });
        for libtorch in [false, true] {
            let options = EngineOptions { kv_cache_mib: 16, libtorch, banned: banned.clone(), ..EngineOptions::default() };
            let mut engine = Engine::new(trainer.config().clone(), options).unwrap();
            engine.load(1, &trainer.weights()).unwrap();
            let sampling = SamplingParams { max_tokens: 40, seed: 7, ..SamplingParams::default() };
            let tokens = self.ids(0);
            let shown = self.shown(&config);
            let pictures = shown.iter().map(|shown| shown.picture.clone()).collect();
            let request = Request { ticket: 1, rollout: 1, tokens: tokens.clone(), pictures: shown, version: 1, ..Request::default() };
            engine.submit(Request { sampling, ..request }).unwrap();
            let reply = drain(&mut engine).remove(&1).unwrap();
            let (start, end) = (tokens.len() as u32, (tokens.len() + reply.tokens.len()) as u32);
            let trained = vec![Span { start, end, advantage: 0.0 }];
            let tokens = [tokens, reply.tokens].concat();
            let fresh = trainer.logprobs(&Sequence { tokens, trained, pictures, ..Sequence::default() }).unwrap();
            let off: Vec<f32> = fresh.iter().zip(&reply.logprobs).map(|(a, b)| (a - b).abs()).collect();
            let (worst, mean) = (off.iter().copied().fold(0.0, f32::max), off.iter().sum::<f32>() / off.len() as f32);
            assert!(worst < 1e-4 && mean < 1e-5, "{} (libtorch: {libtorch}): off by {worst:e}, on average {mean:e}", self.name);
        }
    }

    /// What is written back is what was read, and is read again.
    fn check_round_trip(&self) {
        let trainer = self.trainer();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        let again = Trainer::from_folder(folder.path(), TrainerOptions::default()).unwrap();
        assert_eq!(again.config(), trainer.config(), "{}", self.name);
        assert!(again.weights() == trainer.weights(), "{}", self.name);
        let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let weights: Vec<String> = files.filter(|name| name.ends_with(".safetensors")).collect();
        assert_eq!(weights, ["model.safetensors"], "vLLM reads every such file as weights");
    }
}

/// A sequence as the only one of a batch.
fn whole(tokens: Vec<i64>, pictures: Vec<Picture>, config: &ModelConfig) -> Microbatch {
    let (positions, _) = positions(tokens.len(), &pictures, config.vision.as_ref());
    let pictures = pictures.into_iter().map(|picture| (picture.offset as usize, picture)).collect();
    Microbatch { tokens, positions, pictures, ..Microbatch::default() }
}

fn check_text(family: &str) {
    let (cases, mut worst) = (cases(family), Worst::default());
    for case in &cases {
        worst.take(case);
        case.check_round_trip();
        case.check_serving();
        worst.close += case.check_greedy();
    }
    worst.print(family, cases.len());
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

fn check_seeing(family: &str) {
    let (cases, mut worst) = (cases(family), Worst::default());
    for case in &cases {
        if case.expected.contains_key("position.0") {
            case.check_positions();
        }
        worst.take(case);
        case.check_round_trip();
        case.check_serving();
        worst.close += case.check_forced().max(case.check_greedy());
    }
    worst.print(family, cases.len());
}

#[test]
fn parity_qwen2_5_vl() {
    check_seeing("qwen2_5_vl");
}

#[test]
fn parity_llava() {
    check_seeing("llava");
}

#[test]
fn parity_lora() {
    check_lora("lora");
}

#[test]
fn parity_lora_llava() {
    check_lora("lora_llava");
}

fn check_lora(family: &str) {
    let (cases, mut worst) = (cases(family), Worst::default());
    for case in &cases {
        worst.take(case);
        worst.close += case.check_forced();
        let mut trainer = case.trainer();
        let folder = tempfile::tempdir().unwrap();
        trainer.save_adapter(folder.path()).unwrap();
        let [written, read] = [folder.path(), &case.folder.join("adapter")].map(|folder| folder.join("adapter_model.safetensors"));
        let sorted = |path: PathBuf| Tensor::read_safetensors(path).unwrap().into_iter().collect::<BTreeMap<_, _>>();
        assert!(sorted(written) == sorted(read), "{}: the adapter is written otherwise than it was read", case.name);
        trainer.merge_adapter();
        worst.score = worst.score.max(case.check_scores_of(&trainer));
    }
    worst.print(family, cases.len());
}
