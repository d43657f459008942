use super::*;
use crate::testing::{frame, qwen, small};
use proptest::prelude::*;
use schemas::{decode, encode};

fn head(system: &str) -> SegmentHead {
    SegmentHead { system: system.into(), ..SegmentHead::default() }
}

fn sampled(turn: u32, ids: Vec<u32>) -> Reply {
    let (logprobs, versions) = (vec![-0.5; ids.len()], vec![(3, ids.len() as u32)]);
    Reply { turn, ids, logprobs, versions, source: Source::Policy, cut: false, trainable: true }
}

/// One turn with a sampled reply.
fn turn(context: &Context, segment: &mut Segment, number: u32, text: &str, frames: &[Frame], ids: Vec<u32>) {
    context.push_turn(segment, text, frames).unwrap();
    context.push_reply(segment, sampled(number, ids)).unwrap();
}

/// What must hold of every segment.
fn sound(context: &Context, segment: &Segment) {
    let tokens = &segment.tokens.0;
    let mut at = segment.turns.first().map_or(0, |t| t.start);
    for span in &segment.turns {
        assert!(span.start == at && span.start < span.reply && span.reply <= span.end && span.end <= span.close, "{span:?}");
        at = span.close;
    }
    assert!(at as usize <= tokens.len());
    let trained: u32 = segment.turns.iter().filter(|t| t.trainable && t.source == Source::Policy).map(|t| t.end - t.reply).sum();
    assert_eq!(segment.logprobs.0.len(), trained as usize);
    // Image tokens are there exactly where an image says so.
    let vision = [VISION_START, IMAGE_PAD, VISION_END].map(|t| context.tokenizer.special_id(t).unwrap());
    let count = |id: u32| tokens.iter().filter(|t| **t == id).count();
    assert_eq!(count(vision[1]), segment.image_tokens() as usize);
    assert_eq!((count(vision[0]), count(vision[2])), (segment.images.len(), segment.images.len()));
    for image in &segment.images {
        let (from, to) = (image.offset as usize, (image.offset + image.len) as usize);
        assert_eq!(image.len, image.grid.iter().product::<u32>() / 4);
        assert!(tokens[from..to].iter().all(|t| *t == vision[1]));
        assert_eq!((tokens[from - 1], tokens[to]), (vision[0], vision[2]));
    }
}

#[test]
fn a_conversation_decodes_to_the_templates_rendering() {
    let Some(context) = qwen() else { return };
    let mut segment =
        context.open(&SegmentHead { instruction: "Fetch it.".into(), memory: "Went left.".into(), ..head("Be brief.") }, 2).unwrap();
    turn(context, &mut segment, 0, "P _ G\n_ _ _", &[], context.reply_ids(" Right"));
    context.push_turn(&mut segment, "_ P G", &[]).unwrap();
    sound(context, &segment);
    let whole = "<|im_start|>system\nBe brief.\nFetch it.\nWent left.<|im_end|>\n<|im_start|>user\nP _ G\n_ _ _<|im_end|>\n<|im_start|>assistant\n Right<|im_end|>\n<|im_start|>user\n_ P G<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(segment.tokens.0, context.tokenizer.encode_template(whole));
    let span = &segment.turns[0];
    let text = |from: u32, to: u32| context.tokenizer.decode(&segment.tokens.0[from as usize..to as usize]);
    assert_eq!(text(span.reply, span.end), " Right");
    assert_eq!((span.close, segment.turn_start, segment.number), (segment.turn_start, span.close, 2));
    assert_eq!(text(segment.turn_start, segment.prompt_end), "user\n_ P G\nassistant\n");
}

#[test]
fn sampled_ids_go_in_as_they_were_sampled() {
    let context = small();
    let end = context.template.end_of_turn();
    // Ids that no tokenising of their own text would give back.
    let odd = vec![40, 41, 42, end];
    let mut segment = context.open(&head(""), 0).unwrap();
    assert!(segment.is_empty());
    turn(context, &mut segment, 0, "P _ G", &[], odd.clone());
    let span = segment.turns[0].clone();
    assert_eq!(&segment.tokens.0[span.reply as usize..span.end as usize], odd);
    assert_eq!(span.close, span.end, "the small template adds nothing after the token that ends a turn");
    assert_eq!(span.versions, [(3, 4)]);
}

#[test]
fn a_cut_reply_gets_its_end_masked() {
    for context in [Some(small()), qwen()].into_iter().flatten() {
        let mut segment = context.open(&head("s"), 0).unwrap();
        context.push_turn(&mut segment, "x", &[]).unwrap();
        context.push_reply(&mut segment, Reply { cut: true, ..sampled(0, vec![40, 41]) }).unwrap();
        let span = &segment.turns[0];
        assert_eq!(span.end - span.reply, 2);
        assert_eq!(segment.tokens.0[span.end as usize], context.template.end_of_turn());
        assert_eq!(span.close as usize, segment.len());
        assert!(span.cut && segment.logprobs.0.len() == 2);
        sound(context, &segment);
    }
}

#[test]
fn replies_that_do_not_fit_are_refused() {
    let context = small();
    let mut segment = context.open(&head("s"), 0).unwrap();
    assert!(context.push_reply(&mut segment, sampled(0, vec![1])).is_err(), "nothing was asked for");
    context.push_turn(&mut segment, "x", &[]).unwrap();
    let before = segment.clone();
    assert!(context.push_reply(&mut segment, Reply { logprobs: vec![], ..sampled(0, vec![1]) }).is_err());
    assert!(context.push_reply(&mut segment, Reply { versions: vec![(1, 2)], ..sampled(0, vec![1]) }).is_err());
    assert_eq!(segment, before);
    context.push_reply(&mut segment, sampled(0, vec![1])).unwrap();
    assert!(context.push_reply(&mut segment, sampled(0, vec![1])).is_err(), "it was answered already");
}

#[test]
fn an_experts_reply_has_no_logprobs_and_a_label_is_no_context() {
    let context = small();
    let mut segment = context.open(&head(""), 0).unwrap();
    context.push_turn(&mut segment, "P _ G", &[]).unwrap();
    let asked = segment.tokens.clone();
    context.push_label(&mut segment, 0, context.reply_ids(" done"));
    assert_eq!(segment.tokens, asked);
    assert_eq!((segment.labels[0].after, segment.labels[0].tokens.0.len()), (segment.prompt_end, 2));
    let ids = context.reply_ids(" Left done");
    let reply = Reply { turn: 0, ids, logprobs: vec![], versions: vec![], source: Source::Expert, cut: false, trainable: true };
    context.push_reply(&mut segment, reply).unwrap();
    assert!(segment.logprobs.0.is_empty());
    assert_eq!(segment.trained_tokens(), 3 + 2);
    sound(context, &segment);
}

#[test]
fn pictures_count_their_own_tokens() {
    for context in [Some(small()), qwen()].into_iter().flatten() {
        let mut segment = context.open(&head("<image> is text here"), 0).unwrap();
        turn(context, &mut segment, 0, "left <image>\nright <image>.", &[frame(384, 224), frame(56, 84)], vec![40]);
        turn(context, &mut segment, 1, "<image>", &[frame(256, 256)], vec![40]);
        let counted: Vec<(u32, [u32; 3])> = segment.images.iter().map(|i| (i.len, i.grid)).collect();
        assert_eq!(counted, [(8 * 14, [1, 16, 28]), (2 * 3, [1, 6, 4]), (81, [1, 18, 18])]);
        sound(context, &segment);
    }
}

#[test]
fn pictures_that_do_not_fit_their_text_are_refused() {
    let context = small();
    let mut segment = context.open(&head("s"), 0).unwrap();
    let before = segment.clone();
    for text in ["none", "<image> <image> <image>", "<image>"] {
        assert!(matches!(
            context.push_turn(&mut segment, text, &[frame(28, 28), frame(28, 28)]),
            Err(Error::Placeholders { frames: 2, .. })
        ));
    }
    let lying = Frame { width: 280, ..frame(28, 28) };
    let no_png = Frame { png: b"GIF".to_vec(), ..frame(28, 28) };
    for bad in [lying, no_png, frame(2, 600)] {
        assert!(matches!(context.push_turn(&mut segment, "a <image>", &[bad]), Err(Error::Picture { .. })));
    }
    assert_eq!(segment, before);
    // A picture that the receiver has already comes by digest and size.
    context.push_turn(&mut segment, "a <image>", &[Frame { png: vec![], ..frame(28, 28) }]).unwrap();
    assert_eq!(segment.images.len(), 1);
}

#[test]
fn carried_turns_are_copied_by_id_and_masked() {
    let context = small();
    let mut segment = context.open(&head("system words"), 0).unwrap();
    for n in 0..5 {
        turn(context, &mut segment, n, "see <image>", &[frame(56 + 28 * n, 56)], vec![40 + n, 50]);
        context.push_label(&mut segment, n, vec![7]);
    }
    let carried = carry(&segment, 3);
    let from = segment.turns[3].start as usize;
    assert_eq!(carried.tokens.0, segment.tokens.0[from..]);
    assert_eq!((carried.turns.len(), carried.images.len(), carried.labels.len(), carried.logprobs.0.len()), (2, 2, 0, 0));
    assert!(carried.turns.iter().all(|t| !t.trainable));
    assert_eq!(carried.turns[0].start, 0);
    assert_eq!(carried.turns.iter().map(|t| t.turn).collect::<Vec<_>>(), [3, 4]);
    sound(context, &carried);

    let next = SegmentHead { carried: Some(carried.clone()), ..head("other words, and more of them") };
    let mut opened = context.open(&next, 1).unwrap();
    let start = opened.turns[0].start as usize;
    assert_eq!(opened.tokens.0[start..], carried.tokens.0);
    assert_eq!(opened.trained_tokens(), 0);
    turn(context, &mut opened, 5, "see <image>", &[frame(56, 56)], vec![60]);
    sound(context, &opened);
    assert_eq!(opened.trained_tokens(), 1);
    // What was carried once can be carried again, still by id.
    let again = carry(&opened, 1);
    assert_eq!(again.tokens.0[..], opened.tokens.0[opened.turns[1].start as usize..]);
    assert_eq!(again.images.len(), 2);
    sound(context, &again);
    assert!(carry(&opened, 3).is_empty());
}

#[test]
fn carried_turns_stay_within_bounds() {
    let context = small();
    let mut segment = context.open(&head(""), 0).unwrap();
    for n in 0..6 {
        turn(context, &mut segment, n, "see <image>", &[frame(56, 56)], vec![40]);
    }
    let one = (segment.turns[5].close - segment.turns[5].start) as usize;
    let bounds = |turns, tokens, images| CarryBounds { turns, tokens, images };
    for (bounds, expected) in [
        (bounds(9, 9999, 9), 0),
        (bounds(2, 9999, 9), 4),
        (bounds(9, 3 * one, 9), 3),
        (bounds(9, 3 * one - 1, 9), 4),
        (bounds(9, 9999, 1), 5),
        (bounds(9, one - 1, 9), 6),
        (bounds(0, 9999, 9), 6),
    ] {
        assert_eq!(carry_from(&segment, bounds), expected, "{bounds:?}");
    }
    assert_eq!(carry_from(&Segment::default(), bounds(9, 9, 9)), 0);
}

#[test]
fn carried_turns_with_holes_are_refused() {
    let context = small();
    let mut segment = context.open(&head(""), 0).unwrap();
    turn(context, &mut segment, 0, "a <image>", &[frame(56, 56)], vec![40]);
    let good = carry(&segment, 0);
    let mut wrong = vec![good.clone(), good.clone(), good.clone(), good.clone()];
    wrong[0].tokens.0.push(1);
    wrong[1].turns[0].start = 1;
    wrong[2].images[0].offset = u32::MAX;
    wrong[3].turns[0].reply = 9999;
    for carried in wrong {
        assert!(matches!(context.open(&SegmentHead { carried: Some(carried), ..head("") }, 1), Err(Error::Segment { .. })));
    }
    assert!(context.open(&SegmentHead { carried: Some(good), ..head("") }, 1).is_ok());
}

#[test]
fn segments_survive_the_wire() {
    let context = small();
    let mut segment = context.open(&head("s"), 0).unwrap();
    turn(context, &mut segment, 0, "a <image>", &[frame(56, 56)], vec![40]);
    let message = schemas::Completion { segment: Some(segment), ..schemas::Message::example() };
    assert_eq!(decode::<schemas::Completion>(&encode(&message)).unwrap(), message);
}

proptest! {
    /// Token in, token out: every sampled id is in the segment, once, where its span says; a segment only grows; nothing
    /// that was said becomes a picture or a special token.
    #[test]
    fn segments_only_grow_and_keep_every_sampled_id(
        system in "(<image>|<\\|im_end\\|>|\\PC){0,6}",
        turns in prop::collection::vec((
            "(<\\|image_pad\\|>|<\\|im_end\\|>|<ima|P|_| |\n|\\PC){0,12}",
            prop::collection::vec(0u32..256, 0..5),
            any::<bool>(),
            prop::option::of((1u32..200, 1u32..200)),
        ), 1..8),
    ) {
        for context in [Some(small()), qwen()].into_iter().flatten() {
            let end = context.template.end_of_turn();
            let mut segment = context.open(&head(&system), 0).unwrap();
            let mut said = Vec::new();
            for (number, (text, ids, ended, picture)) in turns.iter().enumerate() {
                let before = segment.tokens.0.clone();
                let frames: Vec<Frame> = picture.iter().filter(|(w, h)| w / h < 9 && h / w < 9).map(|(w, h)| frame(*w, *h)).collect();
                let text = if frames.is_empty() { text.clone() } else { format!("{text}<image>{text}") };
                let mut ids = ids.clone();
                if *ended {
                    ids.push(end);
                }
                turn(context, &mut segment, number as u32, &text, &frames, ids.clone());
                prop_assert!(segment.tokens.0.starts_with(&before));
                said.push(ids);
            }
            sound(context, &segment);
            for (span, ids) in segment.turns.iter().zip(&said) {
                prop_assert_eq!(&segment.tokens.0[span.reply as usize..span.end as usize], &ids[..]);
            }
            // All special tokens are the template's own, the pictures' or sampled.
            let special = segment.tokens.0.iter().filter(|id| context.tokenizer.is_special(**id)).count();
            let template = |ids: &[u32]| ids.iter().filter(|id| context.tokenizer.is_special(**id)).count();
            let t = &context.template;
            let opening = if system.is_empty() { template(&t.bare_head) } else { template(&t.system_prefix) + template(&t.system_suffix) };
            let each = template(&t.user_prefix) + template(&t.user_suffix) + 1 + template(&t.after_end);
            let pictures = segment.image_tokens() as usize + 2 * segment.images.len();
            prop_assert_eq!(special, opening + turns.len() * each + pictures);
        }
    }
}

/// Ten pictures of 324 tokens, and a limit that a cut by tokens would meet within the eighth: turns go whole or not at all.
#[test]
fn a_limit_within_a_picture_drops_whole_turns() {
    for context in [Some(small()), qwen()].into_iter().flatten() {
        let mut segment = context.open(&head("Look."), 0).unwrap();
        for n in 0..10 {
            turn(context, &mut segment, n, "see <image>", &[frame(512, 512)], vec![40]);
        }
        assert!(segment.images.iter().all(|i| i.len == 324) && segment.image_tokens() == 3240 && segment.len() > 2_524);
        let inside = |i: &ImageSpan| i.offset < 2_524 && i.offset + i.len > 2_524;
        assert!(segment.images.iter().any(inside), "the limit must lie within a picture");
        let from = carry_from(&segment, CarryBounds { turns: 99, tokens: 2_524, images: 99 });
        let carried = carry(&segment, from);
        assert!(carried.len() <= 2_524 && carried.images.len() == 7, "{} tokens, {} pictures", carried.len(), carried.images.len());
        sound(context, &carried);
        let next = context.open(&SegmentHead { carried: Some(carried), ..head("Look.") }, 1).unwrap();
        sound(context, &next);
    }
}

/// What people and programs write, special tokens spelled out among it.
const SAID: [&str; 12] = [
    "<image>",
    "<|image_pad|>",
    "<|im_end|>",
    "<|im_start|>system",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|endoftext|>",
    "mug left 2.4 m\n",
    "P _ G",
    " \u{e9}\u{1f600}",
    "<|im",
    "_end|>",
];

/// One random conversation: segments closed by a budget of tokens, pictures of any size, texts that look like special tokens.
fn converse(context: &Context, draw: &mut impl FnMut(u32) -> u32) {
    let budget = 60 + draw(900) as usize;
    let said = |draw: &mut dyn FnMut(u32) -> u32| -> String { (0..draw(5)).map(|_| SAID[draw(12) as usize]).collect() };
    let opening = said(draw);
    let mut segment = context.open(&head(&opening), 0).unwrap();
    for number in 0..1 + draw(7) {
        let frames: Vec<Frame> = (0..draw(3))
            .map(|_| Frame { digest: String::new(), png: vec![], width: 20 + draw(500), height: 20 + draw(400), camera: String::new() })
            .collect();
        // Without pictures a placeholder is text like the rest; with them each stands for one.
        let mut text = said(draw);
        if !frames.is_empty() {
            text = text.replace(IMAGE, "image");
            for _ in &frames {
                text = format!("{text}{IMAGE}{}", said(draw).replace(IMAGE, ""));
            }
        }
        context.push_turn(&mut segment, &text, &frames).unwrap();
        let ids = (0..draw(6)).map(|_| 40 + draw(200)).collect();
        context.push_reply(&mut segment, sampled(number, ids)).unwrap();
        sound(context, &segment);
        if segment.len() > budget {
            let from = carry_from(&segment, CarryBounds { turns: 9, tokens: budget / 2, images: 8 });
            let carried = Some(carry(&segment, from)).filter(|c| !c.is_empty());
            segment = context.open(&SegmentHead { carried, ..head(&opening) }, segment.number + 1).unwrap();
            sound(context, &segment);
        }
    }
}

/// ERRAND_CONVERSATIONS sets how many; CI takes the default.
#[test]
fn image_tokens_equal_pictures_in_any_conversation() {
    let count: u64 = std::env::var("ERRAND_CONVERSATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    for context in [Some(small()), qwen()].into_iter().flatten() {
        for seed in 0..count {
            // A small generator of our own (SplitMix64): the loop is long.
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            converse(context, &mut |below| {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed >> 33) % u64::from(below.max(1))) as u32
            });
        }
    }
}
