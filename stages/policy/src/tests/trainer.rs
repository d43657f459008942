//! The trainer: losses against hand-made numbers, steps that go where they should, and state that goes on bit for bit.

use super::*;
use crate::{Branch, Error, LoraOptions, Precision, Reinforce};
use tch::Device;

const STEP: Reinforce = Reinforce { clip: [0.2, 0.28], entropy: 0.0, kl: 0.0, learning_rate: 1e-3 };

fn plain(seed: u32, len: usize, spans: &[(u32, u32)]) -> Sequence {
    let trained = spans.iter().map(|(start, end)| Span { start: *start, end: *end, advantage: 1.0 }).collect();
    Sequence { tokens: words(seed, len), trained, ..Sequence::default() }
}

fn with_fresh_logprobs(trainer: &Trainer, mut sequence: Sequence) -> Sequence {
    sequence.old_logprobs = trainer.logprobs(&sequence).unwrap();
    sequence
}

#[test]
fn a_branch_costs_what_it_costs_as_a_sequence_of_its_own() {
    let trainer = trainer();
    let base = words(1, 50);
    let labels = [(12, words(70, 5)), (30, words(71, 1)), (50, words(72, 4))];
    let mut tree = Sequence { tokens: base.clone(), trained: vec![Span { start: 20, end: 25, advantage: 0.0 }], ..Sequence::default() };
    tree.branches = labels.iter().map(|(after, tokens)| Branch { after: *after, tokens: tokens.clone(), weight: 1.0 }).collect();
    let mut apart = vec![Sequence { branches: vec![], ..tree.clone() }];
    for (after, tokens) in &labels {
        let trained = vec![Span { start: *after, end: *after + tokens.len() as u32, advantage: 0.0 }];
        apart.push(Sequence { tokens: [&base[..*after as usize], tokens].concat(), trained, ..Sequence::default() });
    }
    let (together, apart) = (trainer.imitation_loss(&[tree]).unwrap(), trainer.imitation_loss(&apart).unwrap());
    assert!((together - apart).abs() < 1e-5, "{together} against {apart}");
}

#[test]
fn a_branch_moves_the_weights_as_a_sequence_of_its_own() {
    let base = words(1, 40);
    let label = words(70, 5);
    let tree =
        Sequence { tokens: base.clone(), branches: vec![Branch { after: 20, tokens: label.clone(), weight: 1.0 }], ..Sequence::default() };
    let trained = vec![Span { start: 20, end: 25, advantage: 0.0 }];
    let apart = Sequence { tokens: [&base[..20], &label].concat(), trained, ..Sequence::default() };
    let norm = |sequence: Sequence| trainer().imitate(&[sequence], 1e-3).unwrap().grad_norm;
    let (a, b) = (norm(tree), norm(apart));
    assert!((a - b).abs() < 1e-4 * a, "{a} against {b}");
}

#[test]
fn packing_does_not_change_the_loss() {
    let trainer = trainer();
    let sequences: Vec<Sequence> = (0..9).map(|i| plain(i, 40 + 3 * i as usize, &[(5, 9), (20, 20 + i)])).collect();
    let loss = |microbatch_tokens: usize, deterministic: bool| {
        let options = TrainerOptions { microbatch_tokens, deterministic, ..options() };
        let mut other = Trainer::new(config(), 5, options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        other.load(folder.path()).unwrap();
        other.imitation_loss(&sequences).unwrap()
    };
    let reference = loss(100_000, false);
    assert!([loss(1, false), loss(150, false), loss(100_000, true)].iter().all(|l| (l - reference).abs() < 1e-5));
}

#[test]
fn threads_share_a_batch_and_change_nothing_but_rounding() {
    let sequences: Vec<Sequence> = (0..12).map(|i| plain(i, 150, &[(5, 9), (20, 20 + i), (140, 150)])).collect();
    let step = |threads: usize| {
        let mut trainer = trainer();
        crate::set_threads(threads);
        let stats = trainer.imitate(&sequences, 1e-3).unwrap();
        (stats, trainer.imitation_loss(&sequences).unwrap())
    };
    let ((one, after_one), (two, after_two)) = (step(1), step(2));
    assert!((one.loss - two.loss).abs() < 1e-5 && (one.grad_norm - two.grad_norm).abs() < 1e-4 * one.grad_norm);
    assert!((one.entropy - two.entropy).abs() < 1e-5 && (after_one - after_two).abs() < 1e-3);
    assert_eq!(step(2).0, two);
}

/// The gradient of attention is worked out by hand on the CPU; libtorch's own differentiation is the judge.
#[test]
fn gradients_are_libtorchs() {
    let trainer = trainer();
    let mut tree = plain(1, 50, &[(3, 9), (40, 50)]);
    tree.branches = vec![Branch { after: 12, tokens: words(70, 5), weight: 0.5 }, Branch { after: 30, tokens: words(71, 7), weight: 2.0 }];
    let sequences = [tree, plain(2, 37, &[(1, 37)]), plain(3, 20, &[(10, 20)])];
    let by_hand = trainer.gradients(&sequences, false).unwrap();
    let by_libtorch = trainer.gradients(&sequences, true).unwrap();
    assert_eq!(by_hand.len(), by_libtorch.len());
    for (number, (a, b)) in by_hand.iter().zip(&by_libtorch).enumerate() {
        let (difference, size) = ((a - b).norm().double_value(&[]), b.norm().double_value(&[]));
        assert!(size > 0.0 && difference < 1e-4 * size, "parameter {number}: {difference} of {size}");
    }
}

#[test]
fn imitation_learns_a_batch_by_heart() {
    let mut trainer = Trainer::new(config(), 2, options()).unwrap();
    let sequences: Vec<Sequence> = (0..3).map(|i| plain(i, 24, &[(4, 8), (12, 24)])).collect();
    let before = trainer.imitation_loss(&sequences).unwrap();
    for _ in 0..120 {
        assert!(trainer.imitate(&sequences, 5e-3).unwrap().finite);
    }
    let after = trainer.imitation_loss(&sequences).unwrap();
    assert!(before > 4.0 && after < 0.05, "{before} to {after}");
}

#[test]
fn reinforcement_raises_what_was_good_and_lowers_what_was_bad() {
    let mut trainer = trainer();
    let mut sequence = plain(50, 40, &[(10, 14), (20, 24)]);
    sequence.trained[1].advantage = -1.0;
    let sequence = with_fresh_logprobs(&trainer, sequence);
    let stats = trainer.reinforce(std::slice::from_ref(&sequence), &STEP).unwrap();
    assert!(stats.finite && stats.tokens == 8 && stats.kl_old.abs() < 1e-6 && stats.clip_fraction == 0.0);
    let fresh = trainer.logprobs(&sequence).unwrap();
    let change = |range: std::ops::Range<usize>| range.map(|i| fresh[i] - sequence.old_logprobs[i]).sum::<f32>();
    assert!(change(0..4) > 0.0 && change(4..8) < 0.0, "{fresh:?} against {:?}", sequence.old_logprobs);
}

#[test]
fn the_clipped_loss_is_the_one_worked_out_by_hand() {
    let mut trainer = trainer();
    let mut sequence = plain(50, 40, &[(10, 16)]);
    sequence.trained = (0..6).map(|i| Span { start: 10 + i, end: 11 + i, advantage: if i < 3 { 2.0 } else { -1.0 } }).collect();
    let fresh = trainer.logprobs(&sequence).unwrap();
    // Ratios of new to old: inside, above, below the clip range; then the same for a negative advantage, above by far.
    let ratios = [1.1f32, 1.5, 0.5, 1.1, 0.5, 5.0];
    sequence.old_logprobs = fresh.iter().zip(ratios).map(|(l, r)| l - r.ln()).collect();
    let losses = [-2.0 * 1.1, -2.0 * 1.28, -2.0 * 0.5, 1.1, 0.8, 3.0];
    let expected = losses.iter().sum::<f64>() / 6.0;
    let stats = trainer.reinforce(std::slice::from_ref(&sequence), &STEP).unwrap();
    assert!((stats.loss - expected).abs() < 1e-4, "{} against {expected}", stats.loss);
    assert!((stats.clip_fraction - 2.0 / 6.0).abs() < 1e-6, "{}", stats.clip_fraction);
    // Only tokens whose bound does not hold carry a gradient: without them nothing moves.
    let mut trainer = super::trainer();
    for (span, ratio) in sequence.trained.iter_mut().zip(ratios) {
        span.advantage = match ratio {
            r if r > 1.28 => 1.0,
            r if r < 0.8 => -1.0,
            _ => 0.0,
        };
    }
    sequence.trained[5].advantage = -1.0;
    assert_eq!(trainer.reinforce(&[sequence], &STEP).unwrap().grad_norm, 0.0);
}

#[test]
fn entropy_bonus_and_reference_pull_as_they_should() {
    let flat = || {
        let trainer = trainer();
        let mut sequence = plain(50, 40, &[(5, 40)]);
        sequence.trained[0].advantage = 0.0;
        let sequence = with_fresh_logprobs(&trainer, sequence);
        (trainer, sequence)
    };
    let (mut trainer, sequence) = flat();
    let bonus = Reinforce { entropy: 0.1, ..STEP };
    let first = trainer.reinforce(std::slice::from_ref(&sequence), &bonus).unwrap().entropy;
    (0..5).for_each(|_| assert!(trainer.reinforce(std::slice::from_ref(&sequence), &bonus).unwrap().finite));
    let last = trainer.reinforce(std::slice::from_ref(&sequence), &bonus).unwrap().entropy;
    assert!(last > first, "{first} to {last}");
    let (mut trainer, sequence) = flat();
    let penalty = Reinforce { kl: 1.0, ..STEP };
    assert!(matches!(trainer.reinforce(std::slice::from_ref(&sequence), &penalty), Err(Error::Options(_))));
    trainer.snapshot_reference().unwrap();
    let at_reference = trainer.reinforce(std::slice::from_ref(&sequence), &penalty).unwrap();
    assert!(at_reference.loss.abs() < 1e-6 && at_reference.grad_norm < 1e-3);
    for _ in 0..5 {
        trainer.imitate(&[plain(3, 40, &[(5, 40)])], 1e-2).unwrap();
    }
    assert!(trainer.reinforce(&[sequence], &penalty).unwrap().loss > 1e-3);
}

#[test]
fn training_goes_on_from_a_checkpoint_with_the_same_bits() {
    let sequences: Vec<Sequence> = (0..4).map(|i| plain(i, 30, &[(4, 8), (12, 24)])).collect();
    let mut through = trainer();
    through.snapshot_reference().unwrap();
    let folder = tempfile::tempdir().unwrap();
    through.save(folder.path()).unwrap();
    let mut resumed = Trainer::new(config(), 999, options()).unwrap();
    resumed.load(folder.path()).unwrap();
    assert_eq!((resumed.step(), resumed.weights()), (through.step(), through.weights()));
    for _ in 0..3 {
        assert_eq!(through.imitate(&sequences, 1e-2).unwrap(), resumed.imitate(&sequences, 1e-2).unwrap());
    }
    let tuned: Vec<Sequence> = sequences.into_iter().map(|s| with_fresh_logprobs(&through, s)).collect();
    let penalty = Reinforce { kl: 0.1, ..STEP };
    assert_eq!(through.reinforce(&tuned, &penalty).unwrap(), resumed.reinforce(&tuned, &penalty).unwrap());
    assert_eq!(through.weights(), resumed.weights());
}

#[test]
fn a_step_that_is_not_finite_is_not_taken() {
    let mut trainer = trainer();
    let before = trainer.weights();
    let mut sequence = with_fresh_logprobs(&trainer, plain(50, 40, &[(10, 14)]));
    sequence.trained[0].advantage = f32::NAN;
    assert!(!trainer.reinforce(&[sequence], &STEP).unwrap().finite);
    assert_eq!(trainer.weights(), before);
}

#[test]
fn sequences_that_cannot_be_trained_on_are_refused_by_name() {
    let mut trainer = trainer();
    let mut reason = |sequence: Sequence| trainer.imitate(&[sequence], 1e-3).unwrap_err().to_string();
    assert!(reason(plain(1, 20, &[(0, 4)])).contains("token 0 follows nothing"));
    assert!(reason(plain(1, 20, &[(5, 21)])).contains("1..20"));
    assert!(reason(plain(1, 20, &[(5, 9), (8, 10)])).contains("9..20"));
    let mut banned = plain(1, 20, &[(5, 9)]);
    banned.tokens[6] = BANNED[0];
    assert!(reason(banned).contains("banned"));
    let stats = trainer.imitate(&[plain(1, 20, &[])], 1e-3).unwrap();
    assert!(stats.finite && stats.tokens == 0);
    let short = Sequence { old_logprobs: vec![0.0; 3], ..plain(1, 20, &[(5, 9)]) };
    assert!(trainer.reinforce(&[short], &STEP).unwrap_err().to_string().contains("3 old log-probabilities for 4"));
}

#[test]
fn weights_are_the_same_bytes_from_the_same_seed_and_survive_a_round_trip() {
    let (a, b) = (Trainer::new(config(), 5, options()).unwrap().weights(), Trainer::new(config(), 5, options()).unwrap().weights());
    assert_eq!(a, b);
    assert_ne!(a, Trainer::new(config(), 6, options()).unwrap().weights());
    let (drawn, read) = (crate::init::draw(&config(), 5), crate::weights::read(&config(), &a).unwrap());
    assert_eq!(drawn.names().collect::<Vec<_>>(), read.names().collect::<Vec<_>>());
    assert!(drawn.names().all(|name| drawn.get(name).unwrap() == read.get(name).unwrap()));
}

#[test]
fn a_wrong_shape_is_named_with_what_was_expected() {
    let bytes = Trainer::new(config(), 5, options()).unwrap().weights();
    let wider = ModelConfig { intermediate_size: 64, ..config() };
    let error = Engine::new(wider, EngineOptions::default()).unwrap().load(0, &bytes).unwrap_err();
    assert!(error.to_string().contains("mlp.gate_proj.weight`: expected shape [64, 32], found [48, 32]"), "{error}");
    let deeper = ModelConfig { num_hidden_layers: 4, ..config() };
    assert!(matches!(Engine::new(deeper, EngineOptions::default()).unwrap().load(0, &bytes), Err(Error::Missing { .. })));
    let shallower = ModelConfig { num_hidden_layers: 2, ..config() };
    let error = Engine::new(shallower, EngineOptions::default()).unwrap().load(0, &bytes).unwrap_err();
    assert!(error.to_string().contains("no place"), "{error}");
    assert!(Engine::new(config(), EngineOptions::default()).unwrap().load(0, b"nonsense").is_err());
}

#[test]
fn configurations_are_read_or_refused_by_name() {
    assert_eq!(ModelConfig::from_json(config().to_json().as_bytes()).unwrap(), config());
    let with = |from: &str, to: &str| {
        let text = config().to_json().replace(from, to);
        ModelConfig::from_json(text.as_bytes()).map_err(|e| e.to_string())
    };
    assert!(with("\"qwen2\"", "\"mamba\"").unwrap_err().contains("`mamba`"));
    assert!(with("\"silu\"", "\"gelu\"").unwrap_err().contains("hidden_act"));
    assert!(with("\"torch_dtype\"", "\"logit_softcap\"").unwrap_err().contains("logit_softcap"));
    assert!(with("\"torch_dtype\": \"float32\"", "\"use_cache\": true").is_ok());
    assert!(with("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3").unwrap_err().contains("does not divide"));
    let newer = with("\"rope_theta\": 10000.0", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}");
    assert_eq!(newer.unwrap(), config());
    assert!(with("\"rope_theta\": 10000.0", "\"rope_parameters\": {\"rope_type\": \"dynamic\"}").unwrap_err().contains("`dynamic`"));
}

fn lora() -> LoraOptions {
    LoraOptions { r: 3, alpha: 6.0, language: ["q_proj", "v_proj", "down_proj"].map(String::from).to_vec(), ..LoraOptions::default() }
}

#[test]
fn an_adapter_alone_is_trained_and_goes_on_from_a_checkpoint() {
    let sequences = [plain(1, 40, &[(5, 40)]), plain(2, 30, &[(1, 30)])];
    let mut trainer = trainer();
    let base = trainer.weights();
    trainer.adapt(&lora(), 3).unwrap();
    let before = trainer.imitation_loss(&sequences).unwrap();
    assert!(trainer.weights() == base, "a new adapter changes nothing");
    for _ in 0..15 {
        trainer.imitate(&sequences, 1e-2).unwrap();
    }
    assert!(trainer.imitation_loss(&sequences).unwrap() < before - 0.05);
    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path()).unwrap();
    let mut again = Trainer::new(config(), 5, options()).unwrap();
    let weights = crate::weights::read(&config(), &base).unwrap();
    again.model = crate::model::Model::new(&config(), &weights, Device::Cpu).unwrap();
    again.adapt(&lora(), 4).unwrap();
    again.load(folder.path()).unwrap();
    let (a, b) = (trainer.imitate(&sequences, 1e-2).unwrap(), again.imitate(&sequences, 1e-2).unwrap());
    assert_eq!((a, trainer.weights()), (b, again.weights()));
    // What the engine is given is the adapter merged in.
    let loss = trainer.imitation_loss(&sequences).unwrap();
    trainer.merge_adapter();
    assert!((trainer.imitation_loss(&sequences).unwrap() - loss).abs() < 1e-5);
}

#[test]
fn adapters_of_other_models_are_refused_by_name() {
    let mut trainer = trainer();
    let wrong = LoraOptions { language: vec!["w_proj".into()], ..lora() };
    assert!(trainer.adapt(&wrong, 1).unwrap_err().to_string().contains("`w_proj`"));
    trainer.adapt(&lora(), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    trainer.save_adapter(folder.path()).unwrap();
    let refused = |config: &ModelConfig| {
        let mut other = Trainer::new(config.clone(), 1, options()).unwrap();
        other.load_adapter(folder.path()).unwrap_err().to_string()
    };
    let narrower = refused(&ModelConfig { intermediate_size: 32, ..config() });
    assert!(narrower.contains("down_proj.lora_A.weight`: expected shape [3, 32], found [3, 48]"), "{narrower}");
    let shallower = refused(&ModelConfig { num_hidden_layers: 2, ..config() });
    assert!(shallower.contains("layers.2.") && shallower.contains("another base"), "{shallower}");
    let at = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&at).unwrap().replace("\"use_dora\": false", "\"use_dora\": true");
    std::fs::write(&at, text).unwrap();
    assert!(refused(&config()).contains("`use_dora`"));
}

#[test]
fn in_bfloat16_the_logprobs_are_near_those_in_f32() {
    let trainer = trainer();
    let folder = tempfile::tempdir().unwrap();
    trainer.save(folder.path()).unwrap();
    let coarse = Trainer::from_folder(folder.path(), TrainerOptions { precision: Precision::Bf16, ..options() }).unwrap();
    let sequence = plain(4, 60, &[(1, 60)]);
    let (fine, coarse) = (trainer.logprobs(&sequence).unwrap(), coarse.logprobs(&sequence).unwrap());
    let mean = fine.iter().zip(&coarse).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / fine.len() as f64;
    assert!(mean < 0.05, "{mean}");
    let mut coarse = Trainer::from_folder(folder.path(), TrainerOptions { precision: Precision::Bf16, ..options() }).unwrap();
    let before = coarse.imitation_loss(std::slice::from_ref(&sequence)).unwrap();
    for _ in 0..5 {
        assert!(coarse.imitate(std::slice::from_ref(&sequence), 1e-2).unwrap().finite);
    }
    assert!(coarse.imitation_loss(&[sequence]).unwrap() < before);
}
