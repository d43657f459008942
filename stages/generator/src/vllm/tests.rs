//! Driving servers: our own behind HTTP stands for vLLM, whose interface it has.

use super::*;
use crate::http::Settings;
use crate::http::tests::{Server as Http, folder};
use schemas::Sampling;

fn options(home: &std::path::Path, urls: Vec<String>) -> Options {
    let config = std::fs::read(home.join("config.json")).unwrap();
    Options {
        urls,
        folder: home.join("weights"),
        files: vec![("config.json".into(), config)],
        banned: vec![4],
        keep_kv: false,
        key: Key::default(),
        adapters: None,
    }
}

fn settings(home: &std::path::Path) -> Settings {
    Settings { names: vec!["m".into()], threads: 1, kv_cache_mib: 8, max_model_len: Some(512), ..Settings::of(home) }
}

fn request(ticket: u64, rollout: u64) -> Request {
    let sampling = Sampling { max_tokens: 6, seed: ticket, ..Sampling::default() };
    Request { ticket, rollout, group: 0, tokens: vec![5, 6, 7, 8], pictures: vec![], version: 1, sampling, stop_ids: vec![2] }
}

fn drain(engine: &mut Vllm) -> Vec<Generated> {
    let mut done = vec![];
    while engine.has_work() {
        done.extend(engine.step().unwrap());
    }
    done.sort_by_key(|reply| reply.ticket);
    done
}

#[test]
fn replies_come_with_logprobs_and_the_version_that_was_loaded() {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let next = home.path().join("other");
    folder(&next, 2);
    let server = Http::start(&settings(home.path()));
    let mut engine = Vllm::new(options(home.path(), vec![server.url.clone()])).unwrap();
    for version in [1, 2] {
        let weights = std::fs::read(if version == 1 { home.path() } else { &next }.join("model.safetensors")).unwrap();
        engine.load(version, weights).unwrap();
        (0..4).for_each(|ticket| assert_eq!(engine.submit(request(ticket, ticket)).unwrap(), None));
        let done = drain(&mut engine);
        assert_eq!(done.len(), 4);
        for reply in done {
            assert_eq!(reply.failed, None);
            assert_eq!((reply.logprobs.len(), &reply.versions), (reply.tokens.len(), &vec![(version, reply.tokens.len() as u32)]));
            assert!(!reply.tokens.contains(&4) && reply.logprobs.iter().all(|logprob| *logprob < 0.0));
        }
    }
    assert!(engine.load(3, b"torn".to_vec()).unwrap_err().contains("version 3"));
}

#[test]
fn a_server_that_dies_loses_no_rollout() {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let (first, second) = (Http::start(&settings(home.path())), Http::start(&settings(home.path())));
    let mut engine = Vllm::new(options(home.path(), vec![first.url.clone(), second.url.clone()])).unwrap();
    engine.load(1, std::fs::read(home.path().join("model.safetensors")).unwrap()).unwrap();
    (0..6).for_each(|ticket| assert_eq!(engine.submit(request(ticket, ticket)).unwrap(), None));
    let homes = |engine: &Vllm| engine.fleet.lock().unwrap().homes.clone();
    assert_eq!(drain(&mut engine).len(), 6);
    let before = homes(&engine);
    assert!((0..2).all(|server| before.values().any(|home| *home == server)), "both have work: {before:?}");
    drop(first);
    (6..12).for_each(|ticket| assert_eq!(engine.submit(request(ticket, ticket - 6)).unwrap(), None));
    let done = drain(&mut engine);
    assert!(done.len() == 6 && done.iter().all(|reply| reply.failed.is_none()), "{done:?}");
    let after = homes(&engine);
    assert!(after.values().all(|home| *home == 1), "{after:?}");
}

#[test]
fn a_server_whose_settings_bend_the_distribution_is_refused_with_the_flag() {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let server = Http::start(&Settings { raw_logprobs: true, ..settings(home.path()) });
    let refused = Vllm::new(options(home.path(), vec![server.url.clone()])).err().unwrap();
    assert!(refused.contains("--logprobs-mode processed_logprobs"), "{refused}");
    assert!(Vllm::new(options(home.path(), vec![])).err().unwrap().contains("urls"));
}

fn adapted(home: &std::path::Path) -> policy::Trainer {
    let options = policy::TrainerOptions { banned: vec![4], ..policy::TrainerOptions::default() };
    let mut trainer = policy::Trainer::from_folder(home, options).unwrap();
    trainer.adapt(&policy::LoraOptions { r: 4, ..policy::LoraOptions::default() }, 5).unwrap();
    trainer
}

/// What a server made by an adapter is what the trainer computes with it.
fn check_against(trainer: &policy::Trainer, reply: &Generated, version: u64) {
    assert_eq!((&reply.failed, &reply.versions), (&None, &vec![(version, reply.tokens.len() as u32)]));
    let tokens = [vec![5, 6, 7, 8], reply.tokens.clone()].concat();
    let trained = vec![policy::Span { start: 4, end: tokens.len() as u32, advantage: 0.0 }];
    let wanted = trainer.logprobs(&policy::Sequence { tokens, trained, ..policy::Sequence::default() }).unwrap();
    assert!(wanted.iter().zip(&reply.logprobs).all(|(a, b)| (a - b).abs() < 1e-4), "{wanted:?} {:?}", reply.logprobs);
}

#[test]
fn versions_are_adapters_side_by_side() {
    let home = tempfile::tempdir().unwrap();
    folder(home.path(), 1);
    let server = Http::start(&settings(home.path()));
    let names = || {
        let listed = ask(&format!("{}/v1/models", server.url), None, &Key::default(), WEIGHTS).unwrap().json();
        listed["data"].as_array().unwrap().iter().skip(1).map(|entry| entry["id"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let options = Options { adapters: Some("run-g1".into()), ..options(home.path(), vec![server.url.clone()]) };
    let mut engine = Vllm::new(options).unwrap();
    let (first, mut second) = (adapted(home.path()), adapted(home.path()));
    let lesson = policy::Span { start: 1, end: 6, advantage: 0.0 };
    let lesson = policy::Sequence { tokens: vec![5, 6, 7, 8, 9, 10], trained: vec![lesson], ..policy::Sequence::default() };
    for _ in 0..5 {
        second.imitate(std::slice::from_ref(&lesson), 1e-2).unwrap();
    }
    engine.load(1, first.adapter().unwrap()).unwrap();
    engine.load(2, second.adapter().unwrap()).unwrap();
    assert_eq!(names(), ["run-g1-v1", "run-g1-v2"]);
    for ticket in 0..6 {
        engine.submit(Request { version: 1 + ticket % 2, ..request(ticket, ticket) }).unwrap();
    }
    for reply in drain(&mut engine) {
        let version = 1 + reply.ticket % 2;
        check_against(if version == 1 { &first } else { &second }, &reply, version);
    }
    engine.drop_version(1);
    assert_eq!(names(), ["run-g1-v2"]);
    // One that the server has lost is loaded again, and one that comes twice is taken anew.
    lora::unload(&server.url, "run-g1-v2", &Key::default()).unwrap();
    for ticket in 0..4 {
        engine.submit(Request { version: 2, ..request(ticket, ticket) }).unwrap();
    }
    drain(&mut engine).iter().for_each(|reply| check_against(&second, reply, 2));
    engine.load(2, first.adapter().unwrap()).unwrap();
    engine.submit(Request { version: 2, ..request(9, 9) }).unwrap();
    check_against(&first, &drain(&mut engine)[0], 2);
    assert!(engine.load(3, first.weights()).unwrap_err().contains("whole weights"));
    drop(engine);
    assert!(names().is_empty());
}
