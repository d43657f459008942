use super::*;
use context::train_small;
use proptest::prelude::*;
use schemas::pipeline::{Engine, Pipeline};
use schemas::{Frame, Message, Segment, SegmentHead};
use std::path::PathBuf;

const NOW: Now = Now { unix_us: 1_000, mono_ms: 10 };
const LATER: Now = Now { unix_us: 5_000, mono_ms: 2_000 };

fn identity(observation_tokens: u32) -> Identity {
    let text = format!(
        "name = \"t\"\nworld = {{ name = \"frozenlake\" }}\nprompt = {{ observation_tokens = {observation_tokens} }}\nschedule = []\n"
    );
    let mut pipeline = Pipeline::parse(&text).expect("a sound pipeline");
    pipeline.generator.engine = Engine::Scripted;
    Identity {
        run: "r".into(),
        id: "prompt-renderer-1".into(),
        host: "h".into(),
        pid: 1,
        epoch: 0,
        since_us: 0,
        folder: PathBuf::from("runs/r"),
        pipeline,
    }
}

fn files() -> (Vec<u8>, Vec<u8>) {
    let corpus: Vec<String> = (0..50).map(|n| format!("P _ G\n_ O _\nstep {n}\n")).collect();
    train_small(&corpus, &["Left".into(), "Right".into()], 300).expect("a sound corpus")
}

fn object(ticket: u64, bytes: Option<Vec<u8>>) -> Input {
    Input::Object { ticket: Ticket(ticket), name: ARTIFACTS[ticket as usize].into(), bytes }
}

fn message(observation: &Observation) -> Input {
    Input::Message { subject: "errand.r.observations".into(), headers: BTreeMap::new(), payload: encode(observation), delivery: None }
}

/// A renderer with its tokenizer.
fn ready() -> Renderer {
    let mut renderer = Renderer::new(identity(96));
    let (json, config) = files();
    assert_eq!(renderer.step(Input::Started, NOW).len(), 3);
    renderer.step(object(0, Some(json)), NOW);
    renderer.step(object(1, Some(config)), NOW);
    assert!(renderer.step(object(2, None), NOW).is_empty());
    renderer
}

fn asked(text: &str) -> Observation {
    Observation { text: text.into(), frames: vec![], expert_reply: None, ..Observation::example() }
}

/// The one message that is published.
fn published<M: Message>(outputs: &[Output], subject: &str) -> M {
    let [Output::Publish { subject: to, payload }] = outputs else { panic!("one message was expected: {outputs:?}") };
    assert_eq!(to, subject);
    decode(payload).expect("a sound message")
}

#[test]
fn an_observation_becomes_a_prompt_to_its_generator() {
    let mut renderer = ready();
    let observation = asked("P _ G\n");
    let prompt: Prompt = published(&renderer.step(message(&observation), NOW), "errand.r.prompts.generator-1");
    assert_eq!(
        (&prompt.at, prompt.group, &prompt.stepper, prompt.policy),
        (&observation.at, 2, &"env-stepper-1".to_string(), observation.policy)
    );
    assert_eq!(prompt.segment.prompt_end as usize, prompt.segment.len());
    assert!(prompt.segment.turn_start > 0, "the head lies before the turn");
    let tokenizer = &renderer.context.as_ref().unwrap().tokenizer;
    assert_eq!(tokenizer.decode(&prompt.segment.tokens.0), "You walk on a lake.P _ G\n");
    assert_eq!(prompt.stop_ids, tokenizer.stop_ids());
    assert_eq!(prompt.trail, [("prompt-renderer".to_string(), 1_000, 1_000)]);
    assert_eq!(renderer.report().done, 1);
}

#[test]
fn a_segment_that_is_there_grows() {
    let mut renderer = ready();
    let first: Prompt = published(&renderer.step(message(&asked("P _ G\n")), NOW), "errand.r.prompts.generator-1");
    let context = renderer.context.as_ref().unwrap();
    let mut segment = first.segment;
    let reply =
        Reply { turn: 0, ids: vec![40], logprobs: vec![-1.0], versions: vec![(3, 1)], source: Source::Policy, cut: true, trainable: true };
    context.push_reply(&mut segment, reply).unwrap();
    let observation = Observation { segment: Some(segment.clone()), head: None, ..asked("_ P G\n") };
    let second: Prompt = published(&renderer.step(message(&observation), NOW), "errand.r.prompts.generator-1");
    assert!(second.segment.tokens.0.starts_with(&segment.tokens.0));
    assert_eq!(second.segment.turn_start as usize, segment.len());
    assert_eq!(second.segment.turns, segment.turns);
}

#[test]
fn the_expert_speaks_at_once() {
    let mut renderer = ready();
    let observation =
        Observation { expert_reply: Some(" Right Left".into()), expert_speaks: true, generator: String::new(), ..asked("P _ G\n") };
    let done: Completion = published(&renderer.step(message(&observation), NOW), "errand.r.completions.env-stepper-1");
    assert_eq!((done.status, done.generator.as_str(), done.text.as_str()), (Status::Done, "expert", " Right Left"));
    let segment = done.segment.expect("the turn is in it");
    let span = &segment.turns[0];
    assert_eq!((span.source, span.trainable, span.cut, span.end - span.reply), (Source::Expert, true, false, 3));
    assert!(segment.logprobs.0.is_empty() && segment.labels.is_empty());
}

#[test]
fn an_experts_reply_over_the_limit_is_cut() {
    let mut renderer = ready();
    let mut observation = Observation { expert_reply: Some(" Right Left Left".into()), expert_speaks: true, ..asked("P _ G\n") };
    observation.sampling.max_tokens = 2;
    let done: Completion = published(&renderer.step(message(&observation), NOW), "errand.r.completions.env-stepper-1");
    let span = done.segment.unwrap().turns[0].clone();
    assert_eq!((done.text.as_str(), span.cut, span.end - span.reply), (" Right Left", true, 2));
}

#[test]
fn a_label_rides_beside_the_prompt() {
    let mut renderer = ready();
    let observation = Observation { expert_reply: Some(" Right".into()), ..asked("P _ G\n") };
    let prompt: Prompt = published(&renderer.step(message(&observation), NOW), "errand.r.prompts.generator-1");
    let label = &prompt.segment.labels[0];
    assert_eq!((label.turn, label.after, label.tokens.0.len()), (0, prompt.segment.prompt_end, 2));
    let plain: Prompt = published(&renderer.step(message(&asked("P _ G\n")), NOW), "errand.r.prompts.generator-1");
    assert_eq!(plain.segment.tokens, prompt.segment.tokens);
}

#[test]
fn pictures_become_tokens_of_their_size() {
    let mut renderer = ready();
    let frame = Frame { digest: "ab".into(), png: vec![], width: 84, height: 56, camera: "navigation".into() };
    let observation = Observation { frames: vec![frame.clone()], ..asked("<image>\n") };
    let prompt: Prompt = published(&renderer.step(message(&observation), NOW), "errand.r.prompts.generator-1");
    assert_eq!((prompt.segment.images[0].len, prompt.segment.images[0].grid), (6, [1, 4, 6]));
    assert_eq!(prompt.frames, [frame]);
    assert_eq!(renderer.report().gauges["images_total"], 1.0);
}

#[test]
fn pictures_that_are_sent_again_are_no_part_of_the_turn() {
    let mut renderer = ready();
    let frame = |digest: &str| Frame { digest: digest.into(), png: vec![], width: 84, height: 56, camera: "navigation".into() };
    let first = Observation { frames: vec![frame("ab")], ..asked("<image>\n") };
    let mut prompt: Prompt = published(&renderer.step(message(&first), NOW), "errand.r.prompts.generator-1");
    prompt.segment.tokens.0.push(3);
    let again = Observation { segment: Some(prompt.segment), frames: vec![frame("cd"), frame("ab")], ..asked("<image>\n") };
    let prompt: Prompt = published(&renderer.step(message(&again), NOW), "errand.r.prompts.generator-1");
    assert_eq!(prompt.segment.images.iter().map(|i| i.digest.as_str()).collect::<Vec<_>>(), ["ab", "cd"]);
    assert_eq!(prompt.frames.len(), 2, "both go on to the generator");
}

/// A rejection, whole, and a failed completion for the stepper.
fn refused(outputs: &[Output], why: &str) {
    let [Output::Reject { reason, payload, .. }, Output::Publish { subject, payload: completion }] = outputs else {
        panic!("a rejection was expected: {outputs:?}")
    };
    assert!(reason.contains(why), "{reason}");
    assert!(decode::<Observation>(payload).is_ok());
    assert_eq!(subject, "errand.r.completions.env-stepper-1");
    let failed: Completion = decode(completion).unwrap();
    assert_eq!((failed.status, failed.segment), (Status::Failed(reason.clone()), None));
}

#[test]
fn what_cannot_be_rendered_is_rejected_with_its_reason() {
    let mut renderer = ready();
    let long = "P _ G\n".repeat(40);
    let frame = Frame { digest: "ab".into(), png: vec![], width: 84, height: 56, camera: "navigation".into() };
    for (observation, why) in [
        (asked(&long), "observation_tokens allows 96"),
        (Observation { head: None, ..asked("P") }, "no head"),
        (Observation { frames: vec![frame], ..asked("no place for it") }, "1 pictures"),
        (Observation { expert_speaks: true, ..asked("P") }, "no reply"),
        (Observation { generator: String::new(), ..asked("P") }, "no generator"),
    ] {
        refused(&renderer.step(message(&observation), NOW), why);
    }
    let garbage = Input::Message { subject: "errand.r.observations".into(), headers: BTreeMap::new(), payload: vec![0xc1], delivery: None };
    let outputs = renderer.step(garbage, NOW);
    assert!(matches!(&outputs[..], [Output::Reject { payload, .. }] if payload == &[0xc1]));
    assert_eq!((renderer.report().done, renderer.report().gauges["rejected_total"]), (0, 6.0));
}

#[test]
fn what_comes_before_the_tokenizer_waits_for_it() {
    let mut renderer = Renderer::new(identity(96));
    renderer.step(Input::Started, NOW);
    assert!(renderer.step(message(&asked("P _ G\n")), NOW).is_empty());
    assert_eq!(renderer.report().waiting, 1);
    let (json, config) = files();
    // Nothing is there yet: it asks again, after a while.
    for ticket in 0..3 {
        renderer.step(object(ticket, None), NOW);
    }
    assert!(renderer.step(Input::Tick, NOW).is_empty());
    assert_eq!(renderer.step(Input::Tick, LATER).len(), 3);
    assert!(renderer.step(Input::Tick, LATER).is_empty(), "one question at a time");
    renderer.step(object(1, Some(config)), LATER);
    renderer.step(object(2, Some(br#"{"max_pixels": 100000}"#.to_vec())), LATER);
    let prompt: Prompt = published(&renderer.step(object(0, Some(json)), LATER), "errand.r.prompts.generator-1");
    assert_eq!(prompt.trail, [("prompt-renderer".to_string(), 1_000, 5_000)]);
    assert_eq!((renderer.report().waiting, renderer.report().line.as_str()), (0, ""));
}

#[test]
fn the_queue_before_the_tokenizer_is_bounded() {
    let mut renderer = Renderer::new(identity(96));
    renderer.step(Input::Started, NOW);
    for _ in 0..WAITING_MAX + 5 {
        renderer.step(message(&asked("P")), NOW);
    }
    let report = renderer.report();
    assert_eq!((report.waiting as usize, report.free, report.gauges["dropped_total"]), (WAITING_MAX, 0, 5.0));
}

#[test]
fn artifacts_that_cannot_be_used_end_the_program() {
    let (json, config) = files();
    for (json, config, images, why) in [
        (b"{}".to_vec(), config.clone(), None, "tokenizer.json"),
        (json.clone(), b"{}".to_vec(), None, "chat_template"),
        (json.clone(), config.clone(), Some(b"[]".to_vec()), "preprocessor_config.json"),
    ] {
        let mut renderer = Renderer::new(identity(96));
        renderer.step(Input::Started, NOW);
        renderer.step(object(0, Some(json)), NOW);
        renderer.step(object(1, Some(config)), NOW);
        let outputs = renderer.step(object(2, images), NOW);
        assert!(matches!(&outputs[..], [Output::Exit { code: 1, message }] if message.contains(why)), "{outputs:?}");
    }
    let mut renderer = ready();
    assert!(matches!(renderer.step(Input::Drain, NOW)[..], [Output::Exit { code: 0, .. }]));
}

proptest! {
    /// Whatever comes, there is an answer to the stepper or to a generator, and the same one again for the same message.
    #[test]
    fn every_observation_is_answered_and_always_the_same(
        text in "(<image>|<\\|image_pad\\|>|P|_|\n| |\\PC){0,40}",
        system in "\\PC{0,8}",
        expert in prop::option::of("( Left| Right|\\PC){0,4}"),
        speaks in any::<bool>(),
        pictures in 0usize..3,
        max_tokens in 0u32..20,
        turn_start in any::<u32>(),
    ) {
        let frame = Frame { digest: "ab".into(), png: vec![], width: 30, height: 30, camera: "navigation".into() };
        let mut observation = Observation { frames: vec![frame; pictures], expert_reply: expert, expert_speaks: speaks, ..asked(&text) };
        observation.head = Some(SegmentHead { system, ..SegmentHead::default() });
        observation.sampling.max_tokens = max_tokens;
        if turn_start % 3 == 0 {
            observation.segment = Some(Segment { turn_start, prompt_end: turn_start.wrapping_add(1), ..Segment::default() });
        }
        let mut renderer = ready();
        let first = format!("{:?}", renderer.step(message(&observation), NOW));
        prop_assert!(first.contains("Publish"));
        prop_assert_eq!(first, format!("{:?}", renderer.step(message(&observation), NOW)));
    }
}
