use crate::*;
use proptest::prelude::*;
use std::fmt::Debug;

/// Every message with its golden bytes. A file is never edited: another version gets another file beside it.
macro_rules! each_message {
    ($check:ident) => {
        $check::<Episode>("episode", include_bytes!("../golden/episode.v1.msgpack"));
        $check::<Grant>("grant", include_bytes!("../golden/grant.v1.msgpack"));
        $check::<Observation>("observation", include_bytes!("../golden/observation.v1.msgpack"));
        $check::<Prompt>("prompt", include_bytes!("../golden/prompt.v1.msgpack"));
        $check::<Completion>("completion", include_bytes!("../golden/completion.v1.msgpack"));
        $check::<End>("end", include_bytes!("../golden/end.v1.msgpack"));
        $check::<PolicyPublished>("policy_published", include_bytes!("../golden/policy_published.v1.msgpack"));
        $check::<Cancel>("cancel", include_bytes!("../golden/cancel.v1.msgpack"));
        $check::<Presence>("presence", include_bytes!("../golden/presence.v1.msgpack"));
        $check::<Rejected>("rejected", include_bytes!("../golden/rejected.v1.msgpack"));
        $check::<UsesFile>("uses", include_bytes!("../golden/uses.v1.msgpack"));
    };
}

fn golden<M: Message + PartialEq + Debug>(name: &str, bytes: &[u8]) {
    let encoded = encode(&M::example());
    // A new message or version begins with an empty file, which `ERRAND_GOLDEN=1` fills; a filled one is never written.
    if bytes.is_empty() && std::env::var_os("ERRAND_GOLDEN").is_some() {
        let path = format!("{}/golden/{name}.v{}.msgpack", env!("CARGO_MANIFEST_DIR"), M::VERSION);
        std::fs::write(path, &encoded).expect("the golden folder can be written");
        return;
    }
    let hint = "raise VERSION, add an upgrade and another golden file, and keep this one";
    assert!(encoded == bytes, "{name}: its example encodes to other bytes than its golden file; hint: {hint}");
    assert_eq!(decode::<M>(bytes), Ok(M::example()), "{name}");
}

#[test]
fn every_message_has_its_golden_bytes() {
    each_message!(golden);
}

fn trailing<M: Message + PartialEq + Debug>(_: &str, golden: &[u8]) {
    for tail in [&[0xc0][..], golden] {
        let bytes = [golden, tail].concat();
        assert_eq!(decode::<M>(&bytes), Err(WireError::Trailing { name: M::NAME, trailing: tail.len() }));
    }
}

#[test]
fn bytes_after_a_message_are_refused() {
    each_message!(trailing);
}

fn over_bound<M: Message + PartialEq + Debug>(_: &str, _: &[u8]) {
    // Zeroed memory is never touched, but a machine may still refuse to promise gigabytes of it.
    if M::MAX_BYTES > 256 << 20 {
        return;
    }
    let bytes = vec![0; M::MAX_BYTES + 1];
    assert_eq!(decode::<M>(&bytes), Err(WireError::TooLarge { name: M::NAME, bytes: bytes.len(), bound: M::MAX_BYTES }));
}

#[test]
fn messages_over_their_bound_are_refused() {
    each_message!(over_bound);
}

fn unknown_version<M: Message + PartialEq + Debug>(_: &str, golden: &[u8]) {
    for (found, written) in [(M::VERSION + 1, vec![M::VERSION as u8 + 1]), (9999, vec![0xcd, 0x27, 0x0f])] {
        // The envelope is a map of two: `v`, the version, `m`, the body.
        assert_eq!(golden[..4], [0x82, 0xa1, b'v', M::VERSION as u8]);
        let bytes = [&golden[..3], &written, &golden[4..]].concat();
        let error = decode::<M>(&bytes).expect_err("no build knows this version");
        assert_eq!(error, WireError::Version { name: M::NAME, found, known: M::VERSION });
        let said = error.to_string();
        assert!(said.contains(&format!("version {found} ")) && said.contains(&format!("version {}", M::VERSION)), "{said}");
        // A body of another shape is still refused for its version.
        let other = [&golden[..3], &written, &[0xa1, b'm', 0x93, 1, 2, 3]].concat();
        assert_eq!(decode::<M>(&other), Err(WireError::Version { name: M::NAME, found, known: M::VERSION }));
    }
}

#[test]
fn an_unknown_version_is_refused_by_both_names() {
    each_message!(unknown_version);
}

fn cut_short<M: Message + PartialEq + Debug>(_: &str, golden: &[u8]) {
    for len in 0..golden.len() {
        assert!(matches!(decode::<M>(&golden[..len]), Err(WireError::Malformed { .. })), "{} at {len}", M::NAME);
    }
}

#[test]
fn messages_cut_anywhere_are_malformed() {
    each_message!(cut_short);
}

#[test]
fn names_are_told_apart() {
    let mut names = Vec::new();
    fn name<M: Message>(names: &mut Vec<&'static str>) {
        names.push(M::NAME);
    }
    name::<Episode>(&mut names);
    name::<Grant>(&mut names);
    name::<Observation>(&mut names);
    name::<Prompt>(&mut names);
    name::<Completion>(&mut names);
    name::<End>(&mut names);
    name::<PolicyPublished>(&mut names);
    name::<Cancel>(&mut names);
    name::<Presence>(&mut names);
    name::<Rejected>(&mut names);
    name::<UsesFile>(&mut names);
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// One message decoded as another is refused, not misread.
#[test]
fn another_message_is_malformed() {
    assert!(matches!(decode::<Episode>(&encode(&Grant::example())), Err(WireError::Malformed { name: "Episode", .. })));
    assert!(matches!(decode::<Prompt>(&encode(&Completion::example())), Err(WireError::Malformed { name: "Prompt", .. })));
}

/// Nesting far deeper than any message has must not end the process.
#[test]
fn deep_nesting_is_refused() {
    let deep = [&[0x82, 0xa1, b'v', 1, 0xa1, b'm'][..], &vec![0x91; 100_000], &[0xc0]].concat();
    assert!(decode::<Presence>(&deep).is_err());
    let other_version = [&[0x82, 0xa1, b'v', 2, 0xa1, b'm'][..], &vec![0x91; 100_000], &[0xc0]].concat();
    assert!(decode::<Presence>(&other_version).is_err());
}

/// A wire type of which only the numbers matter.
fn through<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    rmp_serde::from_slice(&rmp_serde::to_vec_named(value).expect("it serialises")).expect("it was just written")
}

fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Policy), Just(Source::Expert)]
}

prop_compose! {
    fn any_turn()(
        numbers in any::<[u32; 5]>(),
        flags in any::<[bool; 2]>(),
        source in any_source(),
        versions in prop::collection::vec(any::<(u64, u32)>(), 0..4),
    ) -> TurnSpan {
        let [turn, start, reply, end, close] = numbers;
        TurnSpan { turn, start, reply, end, close, trainable: flags[0], source, versions, cut: flags[1] }
    }
}

prop_compose! {
    fn any_image()(offset in any::<u32>(), len in any::<u32>(), grid in any::<[u32; 3]>(), digest in "[0-9a-f]{0,64}") -> ImageSpan {
        ImageSpan { offset, len, grid, digest }
    }
}

fn ids(most: usize) -> impl Strategy<Value = U32s> {
    prop::collection::vec(any::<u32>(), 0..most).prop_map(U32s)
}

prop_compose! {
    fn any_segment()(
        numbers in any::<[u32; 3]>(),
        tokens in ids(64),
        logprobs in prop::collection::vec(-50f32..0.0, 0..32),
        turns in prop::collection::vec(any_turn(), 0..4),
        images in prop::collection::vec(any_image(), 0..4),
        labels in prop::collection::vec((any::<u32>(), any::<u32>(), ids(8)), 0..4),
    ) -> Segment {
        let [number, prompt_end, turn_start] = numbers;
        let labels = labels.into_iter().map(|(turn, after, tokens)| Label { turn, after, tokens }).collect();
        Segment { number, tokens, logprobs: F32s(logprobs), turns, images, labels, prompt_end, turn_start }
    }
}

proptest! {
    #[test]
    fn token_ids_survive_and_are_four_bytes_each(numbers in ids(300)) {
        let bytes = rmp_serde::to_vec_named(&numbers).expect("it serialises");
        let header = match numbers.0.len() * 4 { 0..=255 => 2, 256..=65535 => 3, _ => 5 };
        prop_assert_eq!(bytes.len(), header + 4 * numbers.0.len());
        prop_assert_eq!(through(&numbers), numbers);
    }

    /// Any bits at all, those of NaNs included.
    #[test]
    fn floats_survive_bit_for_bit(bits in prop::collection::vec(any::<u32>(), 0..300)) {
        let floats = F32s(bits.iter().map(|b| f32::from_bits(*b)).collect());
        let back: Vec<u32> = through(&floats).0.iter().map(|f| f.to_bits()).collect();
        prop_assert_eq!(back, bits);
    }

    #[test]
    fn half_numbers_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let written = rmp_serde::to_vec(&serde_bytes::ByteBuf::from(bytes.clone())).expect("it serialises");
        prop_assert_eq!(rmp_serde::from_slice::<U32s>(&written).is_ok(), bytes.len() % 4 == 0);
        prop_assert_eq!(rmp_serde::from_slice::<F32s>(&written).is_ok(), bytes.len() % 4 == 0);
    }

    #[test]
    fn segments_survive_inside_a_message(segment in any_segment()) {
        let message = Completion { segment: Some(segment), ..Completion::example() };
        prop_assert_eq!(decode::<Completion>(&encode(&message)), Ok(message));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..400, flip in any::<u8>()) {
        let _ = decode::<End>(&bytes);
        let mut golden = encode(&End::example());
        let at = at % golden.len();
        golden[at] = flip;
        let _ = decode::<End>(&golden);
    }

    #[test]
    fn episode_names_are_read_back(number in any::<u64>(), split in prop::sample::select(Split::ALL.to_vec())) {
        let id = EpisodeId { split, number };
        prop_assert_eq!(id.to_string().parse::<EpisodeId>(), Ok(id));
    }
}

#[test]
fn seeds_depend_on_every_part_and_on_where_parts_end() {
    let seeds = [
        seed_of(1, &[b"train", b"group"]),
        seed_of(2, &[b"train", b"group"]),
        seed_of(1, &[b"val", b"group"]),
        seed_of(1, &[b"traing", b"roup"]),
        seed_of(1, &[b"traingroup"]),
        seed_of(1, &[]),
    ];
    for (n, seed) in seeds.iter().enumerate() {
        assert!(!seeds[..n].contains(seed), "{n}");
    }
    assert_eq!(seeds[0], seed_of(1, &[b"train", b"group"]));
}
