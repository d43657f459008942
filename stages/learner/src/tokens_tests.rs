use super::*;
use schemas::{EndReason, F32s, Label, Message, Turn, TurnSpan, U32s};

/// Two turns of two tokens each, the second in a segment of its own into which the first was carried.
fn end(mode: Mode) -> End {
    let base = End::example();
    let source = if mode == Mode::Expert { Source::Expert } else { Source::Policy };
    let versions = if source == Source::Policy { vec![(3, 2)] } else { vec![] };
    let span = |turn, start, trainable| TurnSpan {
        turn,
        start,
        reply: start + 2,
        end: start + 4,
        close: start + 4,
        trainable,
        source,
        versions: versions.clone(),
        cut: false,
    };
    let logprobs = |n: usize| F32s(if source == Source::Policy { vec![-0.5; n] } else { vec![] });
    let label = |turn, after| Label { turn, after, tokens: U32s(vec![8, 8, 3]) };
    let labels = |turn, after| if mode == Mode::Dagger { vec![label(turn, after)] } else { vec![] };
    let first = Segment {
        tokens: U32s((1..6).collect()),
        logprobs: logprobs(2),
        turns: vec![span(0, 1, true)],
        labels: labels(0, 3),
        prompt_end: 3,
        turn_start: 1,
        ..Segment::default()
    };
    let second = Segment {
        number: 1,
        tokens: U32s((1..10).collect()),
        logprobs: logprobs(2),
        turns: vec![span(0, 1, false), span(1, 5, true)],
        labels: labels(1, 7),
        prompt_end: 7,
        turn_start: 5,
        ..Segment::default()
    };
    let turn = |turn| Turn { turn, reply_tokens: 2, ..base.turns[0].clone() };
    let episode = schemas::Episode { mode, ..base.episode.clone() };
    End { episode, turns: vec![turn(0), turn(1)], segments: vec![first, second], ..base }
}

fn trajectory(end: &End) -> Trajectory {
    let (lesson, frames) = (Lesson::of(end.episode.mode), end.frames.clone());
    Trajectory { id: end.id(), lesson, segments: end.segments.clone(), counts: check(end).unwrap(), frames }
}

#[test]
fn each_sampled_token_is_trained_once() {
    let end = end(Mode::Policy);
    let counts = check(&end).unwrap();
    assert_eq!((counts.sampled, counts.trained, counts.masked.len()), (4, 4, 0));
    let sequences = trajectory(&end).sequences(0.5);
    assert_eq!(sequences[1].trained, [Span { start: 7, end: 9, advantage: 0.5 }], "the carried turn is context");
    assert_eq!(sequences.iter().map(Sequence::trained_tokens).sum::<u64>(), 4);
    assert_eq!(sequences[0].old_logprobs, [-0.5, -0.5]);
    assert!(sequences.iter().all(|s| s.branches.is_empty()));
}

#[test]
fn in_dagger_the_labels_are_trained_and_the_replies_masked() {
    let end = end(Mode::Dagger);
    let counts = check(&end).unwrap();
    assert_eq!((counts.sampled, counts.trained, counts.masked["policy_reply"]), (10, 6, 4));
    let sequences = trajectory(&end).sequences(1.0);
    assert!(sequences.iter().all(|s| s.trained.is_empty() && s.old_logprobs.is_empty()));
    assert_eq!(sequences[1].branches, [Branch { after: 7, tokens: vec![8, 8, 3], weight: 1.0 }]);
}

#[test]
fn the_expert_has_no_logprobs() {
    let end = end(Mode::Expert);
    assert_eq!(check(&end).unwrap().trained, 4);
    assert!(trajectory(&end).sequences(1.0).iter().all(|s| s.old_logprobs.is_empty() && !s.trained.is_empty()));
}

/// What is wrong, and a word of the message that says so.
type Wrong = (&'static str, fn(&mut End));

#[test]
fn whatever_does_not_add_up_is_found() {
    let wrongs: [Wrong; 9] = [
        ("more than one place", |e| e.segments[1].turns[0].trainable = true),
        ("no segment trains it", |e| drop(e.segments[1].turns.pop())),
        ("its reply has 3 tokens", |e| e.turns[1].reply_tokens = 3),
        ("the end does not know it", |e| drop(e.turns.pop())),
        ("log-probabilities", |e| e.segments[0].logprobs.0.truncate(1)),
        ("versions cover 1", |e| e.segments[0].turns[0].versions = vec![(3, 1)]),
        ("of 4 tokens", |e| e.segments[0].tokens.0.truncate(4)),
        ("follows 0", |e| e.segments[0].labels.push(Label { turn: 0, after: 0, tokens: U32s(vec![1]) })),
        ("more than one label", |e| {
            let label = Label { turn: 0, after: 1, tokens: U32s(vec![1]) };
            e.segments[0].labels = vec![label.clone(), label];
        }),
    ];
    for (word, break_it) in wrongs {
        let mut end = end(Mode::Policy);
        break_it(&mut end);
        // A span that is gone leaves its log-probabilities behind; that is another case.
        if word == "no segment trains it" {
            end.segments[1].logprobs.0.clear();
        }
        if word == "more than one place" {
            end.segments[1].logprobs.0.extend([-0.5, -0.5]);
        }
        let error = check(&end).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn an_end_that_was_not_played_may_lack_its_last_turn() {
    let mut end = end(Mode::Policy);
    end.reason = EndReason::EnvError;
    end.turns.pop();
    assert_eq!(check(&end), Ok(Counts::default()));
}

#[test]
fn pictures_come_with_their_end_unchanged() {
    let mut end = end(Mode::Policy);
    let png = b"the bytes of a picture".to_vec();
    let frame = Frame { digest: schemas::digest_of(&png), png, width: 84, height: 56, camera: "navigation".into() };
    end.segments[1].images = vec![schemas::ImageSpan { offset: 2, len: 1, grid: [1, 2, 2], digest: frame.digest.clone() }];
    let missing = check_pictures(&end).unwrap_err().to_string();
    assert!(missing.contains("segment 1 shows it and the end did not bring it"), "{missing}");
    end.frames = vec![frame.clone()];
    check_pictures(&end).unwrap();
    let sequences = trajectory(&end).sequences(1.0);
    assert!(sequences[0].pictures.is_empty());
    assert_eq!((sequences[1].pictures[0].offset, &sequences[1].pictures[0].png[..]), (2, &frame.png[..]));
    end.frames[0].png[3] ^= 1;
    assert!(check_pictures(&end).unwrap_err().to_string().contains("changed on their way"));
}
