use super::*;
use proptest::prelude::*;

const FORMATS: [Format; 6] =
    [Format::Actions, Format::FreeThink, Format::NoThink, Format::Grounding, Format::Worldmodeling, Format::GroundingWorldmodeling];

fn prompt(format: Format, separator: &str, most: u32, strict: bool) -> PromptConfig {
    PromptConfig { format, strict, actions_per_turn: most, action_separator: separator.into(), ..PromptConfig::default() }
}

fn lake() -> Vec<ActionSpec> {
    ["Left", "Down", "Right", "Up"].map(|name| ActionSpec { name: name.into(), ..ActionSpec::default() }).to_vec()
}

fn house() -> Vec<ActionSpec> {
    let spec = |name: &str, aliases: &[&str], ends_reply| ActionSpec {
        name: name.into(),
        aliases: aliases.iter().map(|a| a.to_string()).collect(),
        ends_reply,
    };
    vec![
        spec("move_ahead", &["moveahead", "m"], false),
        spec("rotate_left", &["rotateleft", "l"], false),
        spec("rotate_left_small", &["ls"], false),
        spec("pickup", &["p"], true),
        spec("done", &["end"], true),
    ]
}

/// `actions | dropped | well formed`, for tables.
fn read(prompt: &PromptConfig, actions: &[ActionSpec], reply: &str) -> String {
    let parsed = parse(prompt, actions, reply);
    format!("{} | {} | {}", parsed.actions.join(" "), parsed.dropped.join(" "), parsed.well_formed)
}

#[test]
fn a_name_that_is_none_is_told_the_nearest() {
    let house = house();
    for (written, meant) in [
        ("move_ahed", Some("move_ahead")),
        ("Move-Forward", Some("move_ahead")),
        ("move ahead", Some("move_ahead")),
        ("rotate_lft_small", Some("rotate_left_small")),
        ("pick_up", Some("pickup")),
        ("don", Some("done")),
        ("move_ahead", None),
        ("ls", None),
        ("PICKUP", None),
        ("I", None),
        ("xyz", None),
        ("", None),
        ("move_ahead and then rotate_left until I see it", None),
    ] {
        assert_eq!(nearest(&house, false, written), meant, "{written}");
    }
    assert_eq!(nearest(&house, true, "PICKUP"), Some("pickup"));
}

#[test]
fn actions_only_with_a_space() {
    let strict = prompt(Format::Actions, " ", 3, true);
    for (reply, expected) in [
        (" move_ahead move_ahead", "move_ahead move_ahead |  | true"),
        ("m  l\n", "move_ahead rotate_left |  | true"),
        ("move_ahead pickup move_ahead", "move_ahead pickup | move_ahead | true"),
        ("m m m m", "move_ahead move_ahead move_ahead | m | false"),
        ("m jump m", "move_ahead | jump m | false"),
        ("Move_Ahead", " | Move_Ahead | false"),
        ("", " |  | false"),
        (" \n ", " |  | false"),
        ("<image>m", "move_ahead |  | true"),
        ("rotate_left_smal", " | rotate_left_smal | false"),
    ] {
        assert_eq!(read(&strict, &house(), reply), expected, "{reply:?}");
    }
    let loose = PromptConfig { strict: false, ..strict };
    assert_eq!(read(&loose, &house(), "Move_Ahead DONE"), "move_ahead done |  | true");
}

#[test]
fn actions_only_with_a_sign() {
    let settings = prompt(Format::Actions, "|", 3, true);
    for (reply, expected) in [
        ("Left|Up", "Left Up |  | true"),
        (" Left | Up ", "Left Up |  | true"),
        ("Left||Up", "Left Up |  | false"),
        ("Left|", "Left |  | false"),
        ("Left Up", " | Left Up | false"),
        ("|", " |  | false"),
    ] {
        assert_eq!(read(&settings, &lake(), reply), expected, "{reply:?}");
    }
}

#[test]
fn names_are_matched_exactly_then_by_alias_then_without_case() {
    let spec = |name: &str, alias: &str| ActionSpec { name: name.into(), aliases: vec![alias.into()], ends_reply: false };
    let actions = [spec("stop", "go"), spec("go", "halt"), spec("GO", "x")];
    let loose = prompt(Format::Actions, " ", 9, false);
    assert_eq!(parse(&loose, &actions, "go GO Go halt HALT").actions, ["go", "GO", "stop", "go", "go"]);
}

#[test]
fn tagged_replies_strictly_and_loosely() {
    let cases = [
        // format, reply, strict reading, loose reading
        (Format::FreeThink, "<think>x</think><answer>Left,Up</answer>", "Left Up |  | true", "Left Up |  | true"),
        (Format::FreeThink, " <think>\nx\n</think>\n <answer> Left , Up </answer> \n", "Left Up |  | true", "Left Up |  | true"),
        (Format::FreeThink, "Well, <think>x</think><answer>Left</answer>", " | Left | false", "Left |  | false"),
        (Format::FreeThink, "<think>x</think><answer>Left</answer> so", " | Left | false", "Left |  | false"),
        (Format::FreeThink, "<think>x</think> then <answer>Left</answer>", " |  | false", " |  | false"),
        (Format::FreeThink, "<answer>Left</answer>", " |  | false", " |  | false"),
        (Format::FreeThink, "<think>x</think><answer>Left", " |  | false", " |  | false"),
        (Format::FreeThink, "<think></think><answer></answer>", " |  | false", " |  | false"),
        (Format::NoThink, "<answer>Left</answer>", "Left |  | true", "Left |  | true"),
        (Format::NoThink, "<think>x</think><answer>Left</answer>", " | Left | false", "Left |  | false"),
        // The tags of an answer within an answer are taken out, which leaves no action's name.
        (Format::NoThink, "<answer>Left</answer><answer>Up</answer>", " | LeftUp | false", " | LeftUp | false"),
        (Format::NoThink, "<answer>left</answer>", " | left | false", "Left |  | true"),
        (Format::NoThink, "<answer>Left,Jump,Up</answer>", "Left | Jump Up | false", "Left | Jump Up | false"),
        (Format::NoThink, "<answer>Left,,Up</answer>", "Left Up |  | true", "Left Up |  | true"),
        // More than the limit: the rest is dropped, unread, and the format still holds.
        (Format::NoThink, "<answer>Left,Up,Up,Up,Jump</answer>", "Left Up Up | Up Jump | true", "Left Up Up | Up Jump | true"),
        (
            Format::Grounding,
            "<think><observation>o</observation><reasoning>r</reasoning></think><answer>Up</answer>",
            "Up |  | true",
            "Up |  | true",
        ),
        (
            Format::Grounding,
            "I <think> <observation>o</observation>\n<reasoning>r</reasoning> </think> <answer>Up</answer>",
            " | Up | false",
            "Up |  | false",
        ),
        (
            Format::Grounding,
            "<think><reasoning>r</reasoning><observation>o</observation></think><answer>Up</answer>",
            " |  | false",
            " |  | false",
        ),
        (
            Format::Worldmodeling,
            "<think><reasoning>r</reasoning><prediction>p</prediction></think><answer>Up</answer>",
            "Up |  | true",
            "Up |  | true",
        ),
        (
            Format::GroundingWorldmodeling,
            "<think><observation>o</observation><reasoning>r</reasoning><prediction>p</prediction></think><answer>Up</answer>",
            "Up |  | true",
            "Up |  | true",
        ),
        (
            Format::GroundingWorldmodeling,
            "<think><observation>o</observation><reasoning>r</reasoning></think><answer>Up</answer>",
            " |  | false",
            " |  | false",
        ),
    ];
    for (format, reply, strict, loose) in cases {
        assert_eq!(read(&prompt(format, ",", 3, true), &lake(), reply), strict, "strict {format:?} {reply:?}");
        assert_eq!(read(&prompt(format, ",", 3, false), &lake(), reply), loose, "loose {format:?} {reply:?}");
    }
}

#[test]
fn sections_are_kept_trimmed_and_without_the_outer_tags() {
    let settings = prompt(Format::GroundingWorldmodeling, ",", 3, true);
    let reply =
        "<think><observation> a <think> </observation><reasoning>b</reasoning><prediction>\nc</prediction></think><answer>Up</answer>";
    let parsed = parse(&settings, &lake(), reply);
    assert_eq!(
        (parsed.observation.as_deref(), parsed.reasoning.as_deref(), parsed.prediction.as_deref()),
        (Some("a"), Some("b"), Some("c"))
    );
    let thought = parse(&prompt(Format::FreeThink, ",", 3, true), &lake(), "<think> b </think><answer>Up</answer>");
    assert_eq!((thought.observation, thought.reasoning.as_deref()), (None, Some("b")));
}

#[test]
fn a_hostile_reply_is_read_in_bounded_time() {
    let settings = prompt(Format::GroundingWorldmodeling, ",", 3, false);
    let piece = "<think><observation></observation><reasoning></reasoning><prediction></prediction></think>";
    assert_eq!(parse(&settings, &lake(), &piece.repeat(200)), Parsed::default());
}

#[test]
fn what_a_policy_is_told_names_each_tag_that_is_read() {
    for format in FORMATS {
        let settings = prompt(format, "|", 3, true);
        let told = instructions(&settings, &house());
        for mark in marks(format) {
            if let (Mark::Tag(tag), true) = (mark, format != Format::Actions) {
                assert!(told.contains(&tag) && reminder(&settings).contains(&tag), "{format:?} {tag}");
            }
        }
        assert!(told.contains("1 to 3") && told.contains("`|`") && told.contains("move_ahead"), "{told}");
        let example = told.rsplit_once("For example: ").expect("an example is given").1;
        assert!(parse(&settings, &house(), example).well_formed, "{format:?} {example}");
    }
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(FORMATS.to_vec())
}

proptest! {
    /// What is written is read back as the same actions and texts, whatever tags the texts try to bring in.
    #[test]
    fn written_replies_are_read_back(
        format in any_format(),
        separator in prop::sample::select(vec![" ", ",", "|", " | ", "~~"]),
        picks in prop::collection::vec(0usize..4, 1..=5),
        texts in prop::collection::vec("[a-z <>/]{0,12}(<think>|</think>|</answer>|<observation>|</prediction>|<ima<image>ge>|é)?[a-z .]{0,12}", 3),
        strict in any::<bool>(),
    ) {
        let settings = prompt(format, separator, 5, strict);
        let names: Vec<String> = picks.iter().map(|i| lake()[*i].name.clone()).collect();
        let plan = ReplyParts { actions: names.clone(), observation: texts[0].clone(), reasoning: texts[1].clone(), prediction: texts[2].clone() };
        let reply = write(&settings, &plan);
        let parsed = parse(&settings, &lake(), &reply);
        prop_assert!(parsed.well_formed, "{reply}");
        prop_assert_eq!(&parsed.actions, &names);
        prop_assert!(parsed.dropped.is_empty());
        for (text, section) in [(&parsed.observation, Section::Observation), (&parsed.reasoning, Section::Reasoning), (&parsed.prediction, Section::Prediction)] {
            let told = sections(format).contains(&section) || (format == Format::FreeThink && section == Section::Reasoning);
            prop_assert_eq!(text.is_some(), told);
        }
    }

    /// No reply at all makes the parser fail, give an unknown action or give too many.
    #[test]
    fn any_reply_is_read(format in any_format(), strict in any::<bool>(), reply in "(<think>|</think>|<answer>|</answer>|<observation>|</observation>|<reasoning>|</reasoning>|Left|Up|,| |\\PC){0,24}") {
        let parsed = parse(&prompt(format, ",", 2, strict), &lake(), &reply);
        prop_assert!(parsed.actions.len() <= 2);
        prop_assert!(parsed.actions.iter().all(|a| lake().iter().any(|s| &s.name == a)));
        prop_assert!(!parsed.well_formed || !parsed.actions.is_empty());
    }
}
