//! The order of rings, and their text.

use proptest::prelude::*;

use super::*;

fn made(byte: u8) -> GossipKey {
    GossipKey::from_bytes([byte; 32])
}

fn ring() -> KeyRing {
    KeyRing::bootstrap(made(1))
        .stage(made(2), 3, 10, 0, false)
        .activate(3, 20)
        .stage(made(3), 3, 30, 4, true)
}

#[test]
fn every_step_supersedes_the_one_before_and_a_later_term_every_step() {
    let mut steps = vec![KeyRing::bootstrap(made(1))];
    let staged = steps[0].stage(made(2), 1, 0, 0, false);
    let activated = staged.activate(1, 0);
    let retired = activated.retire(1, 0);
    let later = staged.stage(made(3), 2, 0, 0, false);
    // A controller whose term is behind the ring it found continues that ring.
    let behind = later.activate(1, 0);
    steps.extend([staged, activated, retired, later, behind]);
    for pair in steps.windows(2) {
        assert!(pair[0].version() < pair[1].version(), "{pair:?}");
        assert_eq!(pair[1].supersedes(Some(&pair[0])), Ok(true));
        assert_eq!(pair[0].supersedes(Some(&pair[1])), Ok(false));
        assert_eq!(pair[0].supersedes(None), Ok(true));
    }
}

#[test]
fn two_keys_under_one_number_are_ordered_alike_everywhere() {
    let base = KeyRing::bootstrap(made(1));
    let one = base.stage(made(2), 1, 0, 0, false);
    let other = base.stage(made(3), 1, 0, 0, false);
    let wins = [
        one.supersedes(Some(&other)).unwrap(),
        other.supersedes(Some(&one)).unwrap(),
    ];
    assert_eq!(wins.iter().filter(|wins| **wins).count(), 1);
    assert_eq!(one.supersedes(Some(&one)), Ok(false));
}

#[test]
fn a_ring_that_wants_the_last_word_is_refused() {
    let ours = ring();
    let mut text = ours.to_text().to_string();
    assert!(text.starts_with("rivven-gossip-keys 0 3 3 30 4 1\n"), "{text}");
    for numbers in ["18446744073709551615 0", "3 18446744073709551615"] {
        text = text.replacen("0 3 3 ", &format!("0 {numbers} "), 1);
        let greedy = KeyRing::from_text(&text).unwrap();
        let refused = greedy.supersedes(Some(&ours)).unwrap_err();
        assert_eq!(refused.code(), "gossip-keys-too-far-ahead");
        // Who has nothing takes what there is, and no last word either.
        let refused = greedy.supersedes(None).unwrap_err();
        assert_eq!(refused.code(), "gossip-keys-too-far-ahead");
        text = ours.to_text().to_string();
    }
}

/// The text of version 0; see `docs/formats/wire.md`.
#[test]
fn golden_vector() {
    let text = ring().to_text();
    let expected = format!(
        "rivven-gossip-keys 0 3 3 30 4 1\nprevious 0 {}\ncurrent 1 {}\nnext 2 {}\n",
        "01".repeat(32),
        "02".repeat(32),
        "03".repeat(32)
    );
    assert_eq!(*text, expected);
    assert_eq!(ring().version().to_string(), "3.3.2d3945f35072736f");
    let read = KeyRing::from_text(&text).unwrap();
    assert_eq!(read.version(), ring().version());
    assert_eq!(read.to_text(), text);
    let largest = KeyRing {
        version: RingVersion {
            term: u64::MAX,
            step: u64::MAX,
            print: 0,
        },
        since_ms: u64::MAX,
        removals: u64::MAX,
        previous: Some(EpochKey {
            epoch: u64::MAX - 2,
            key: made(1),
        }),
        current: EpochKey {
            epoch: u64::MAX - 1,
            key: made(2),
        },
        next: Some(EpochKey {
            epoch: u64::MAX,
            key: made(3),
        }),
        urgent: true,
    };
    assert!(KeyRing::from_text(&largest.to_text()).is_ok());
}

#[test]
fn text_that_was_not_written_by_a_ring_is_refused() {
    let good = ring().to_text().to_string();
    let damaged = [
        String::new(),
        "rivven-gossip-keys 0 3 3 30 4 1\n".into(),
        good.replace("keys 0 3", "keys 1 3"),
        good.replace("30 4 1", "30 4 2"),
        good.replace("30 4 1", "+30 4 1"),
        good.replace("30 4 1", "030 4 1"),
        good.replace("30 4 1", "30 4"),
        good.replace("next 2", "next 3"),
        good.replace("previous 0", "previous 1"),
        good.replace("current 1 02", "current 1 0x"),
        good.replace("current", "next"),
        good.replace('\n', "\r\n"),
        good.trim_end().into(),
        format!("{good}next 3 {}\n", "04".repeat(32)),
        format!("{good}{}", " ".repeat(MAX_RING_TEXT)),
    ];
    for text in damaged {
        assert_eq!(
            KeyRing::from_text(&text).unwrap_err().code(),
            "gossip-keys-malformed",
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_reads_back_only_as_written(text in "(rivven-gossip-keys 0 )?[ -~\n]{0,200}") {
        if let Ok(ring) = KeyRing::from_text(&text) {
            prop_assert_eq!(&*ring.to_text(), &text);
        }
    }

    /// Whoever hands rings to whom in whatever order: the greatest one wins.
    #[test]
    fn rings_that_travel_in_any_order_end_as_one(
        order in prop::collection::vec((0..6_usize, 0..3_usize), 0..40),
    ) {
        let base = KeyRing::bootstrap(made(1));
        let one = base.stage(made(2), 1, 0, 0, false);
        let other = base.stage(made(3), 1, 0, 0, false);
        let rings = [base, one.clone(), other.clone(), one.activate(1, 0), other.activate(1, 0), other.activate(2, 0)];
        let mut held: [Option<KeyRing>; 3] = [None, None, None];
        let mut all: Vec<KeyRing> = Vec::new();
        for (ring, node) in order {
            if rings[ring].supersedes(held[node].as_ref()).unwrap() {
                held[node] = Some(rings[ring].clone());
            }
            all.push(rings[ring].clone());
        }
        // In the end everybody hears of everything.
        let greatest = all.iter().map(KeyRing::version).max();
        for held in &mut held {
            for ring in &all {
                if ring.supersedes(held.as_ref()).unwrap() {
                    *held = Some(ring.clone());
                }
            }
            prop_assert_eq!(held.as_ref().map(KeyRing::version), greatest);
        }
    }
}
