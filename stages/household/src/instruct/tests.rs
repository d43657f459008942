//! Words as the templates have them, and phrases that mean one thing.

use super::*;
use crate::generator::{HouseSplit, generate_compiled};
use rand::SeedableRng as _;
use std::collections::BTreeSet;

fn all(task: Task, phrase: &Phrase, bring: bool, wording: Wording) -> BTreeSet<String> {
    (0..400).map(|seed| instruction(task, phrase, bring, wording, &mut ChaCha8Rng::seed_from_u64(seed))).collect()
}

#[test]
fn templates_are_those_of_chores() {
    let mug = Phrase::any("Mug");
    let nav = all(Task::ObjectNav, &mug, false, Wording::Template);
    assert_eq!(
        nav,
        BTreeSet::from(["go to a mug", "locate a mug", "find a mug", "search for a mug", "navigate to a mug"].map(String::from))
    );
    let clock = Phrase::any("AlarmClock");
    let take = all(Task::PickUp, &clock, false, Wording::Template);
    assert!(take.len() == 6 && take.contains("clutch an alarm clock"));
    let fetch = all(Task::Fetch, &Phrase::any("SprayBottle"), false, Wording::Template);
    assert!(fetch.len() == 30 && fetch.contains("search for a spray bottle and hold that spray bottle"));
    assert_eq!(
        room_visit(5, Wording::Template),
        "go to all 5 rooms in the house. indicate when you have seen a new room and when you are done"
    );
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let room = room_nav("LivingRoom", &mut rng);
    assert!(GO.iter().any(|go| room == format!("{go} a living room")), "{room}");
}

#[test]
fn relations_are_said_as_spoc_says_them() {
    let phrase = |relation, room| Phrase { kind: "Apple".into(), relation, room }.text();
    assert_eq!(phrase(Relation::Any, Some(0)), "an apple in the room");
    assert_eq!(phrase(Relation::Colour("red"), Some(0)), "the red apple in the room");
    assert_eq!(phrase(Relation::On("DiningTable".into()), None), "an apple on a dining table");
    assert_eq!(phrase(Relation::Near(vec!["Sofa".into(), "TVStand".into()]), None), "an apple near a sofa and a tv stand");
    assert_eq!(phrase(Relation::Closest("Fridge".into()), Some(1)), "the apple closest to the fridge in the room");
    assert_eq!(phrase(Relation::Furthest("Bed".into()), Some(1)), "the apple furthest from the bed in the room");
}

#[test]
fn senses_have_types_and_types_have_nouns() {
    for (kind, sense) in SENSES {
        assert_eq!((synset(kind).as_str(), kind_of(sense)), (sense, Some(kind)));
        assert!(hypernym(kind).is_some());
    }
    assert_eq!(synset("DiningTable"), "dining_table.n.01");
    assert_eq!(["GarbageCan", "BasketBall", "Television"].map(noun), ["trash can", "basketball", "television"]);
}

/// What is called red is red for the test, by asset.
fn colours(thing: &Thing) -> Option<&'static str> {
    match thing.asset.len() % 3 {
        0 => Some("red"),
        1 => Some("blue"),
        _ => None,
    }
}

#[test]
fn phrases_that_are_given_mean_their_thing_alone() {
    let (mut described, mut relations) = (0, BTreeSet::new());
    for number in 0..20 {
        let (_, scene) = generate_compiled(HouseSplit::Train, number).unwrap();
        for thing in (0..scene.things.len()).filter(|&thing| crate::tasks::TARGETS.contains(&scene.things[thing].kind.as_str())) {
            let phrases = describe(&scene, thing, &colours);
            described += usize::from(!phrases.is_empty());
            for phrase in &phrases {
                assert_eq!(phrase.means(&scene, &colours), [thing], "{}", phrase.text());
                let name = format!("{:?}", phrase.relation);
                relations.insert(name.split('(').next().unwrap().to_owned());
            }
            let unique = scene.things.iter().filter(|other| other.kind == scene.things[thing].kind).count() == 1;
            assert_eq!(phrases.contains(&Phrase::any(&scene.things[thing].kind)), unique);
        }
    }
    assert!(described > 60 && relations.len() == 6, "{described} things, {} relations", relations.len());
}

#[test]
fn paraphrases_share_no_sentence_with_the_templates() {
    for task in [Task::ObjectNav, Task::PickUp, Task::Fetch] {
        for bring in [false, true] {
            let phrase = Phrase::any("Laptop");
            let (ours, held_out) = (all(task, &phrase, bring, Wording::Template), all(task, &phrase, bring, Wording::Paraphrase));
            assert!(ours.is_disjoint(&held_out) && held_out.iter().all(|text| text.contains("a laptop") && *text == text.to_lowercase()));
        }
    }
    assert_ne!(room_visit(3, Wording::Template), room_visit(3, Wording::Paraphrase));
}

#[test]
fn colours_have_plain_words_or_none() {
    let words =
        [[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.8], [0.95, 0.95, 0.95], [0.05, 0.05, 0.06], [0.5, 0.3, 0.1], [0.9, 0.85, 0.1]];
    let expected = ["red", "green", "blue", "white", "black", "brown", "yellow"].map(Some);
    assert_eq!(words.map(colour_word), expected);
    assert_eq!(colour_word([0.2, 0.7, 0.7]), None);
}
