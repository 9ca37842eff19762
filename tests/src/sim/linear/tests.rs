//! Histories that must be rejected, and small ones compared with every order there is.

use super::*;
use crate::sim::chance::Chance;

fn op(invoked: u64, returned: impl Into<Option<u64>>) -> Operation {
    Operation {
        invoked,
        returned: returned.into(),
        sees: Vec::new(),
        writes: Vec::new(),
    }
}

impl Operation {
    fn sees(mut self, key: Key, sight: Sight) -> Self {
        self.sees.push((key, sight));
        self
    }

    fn reads(self, content: Content) -> Self {
        self.sees(0, Sight::Is(content))
    }

    fn writes(mut self, content: Content) -> Self {
        self.writes.push((0, content));
        self
    }
}

fn check_is(history: &[Operation], linearizable: bool) {
    let verdict = check(history);
    assert_eq!(
        verdict == Verdict::Linearizable,
        linearizable,
        "{verdict:?} of {history:#?}"
    );
    let all: Vec<usize> = (0..history.len()).collect();
    let brute = explained(history, &all, &BTreeMap::new());
    assert_eq!(brute, linearizable, "by every order: {history:#?}");
}

/// Whether some order of the operations at the places `left`, given what the keys hold, explains them.
fn explained(history: &[Operation], left: &[usize], contents: &BTreeMap<Key, u64>) -> bool {
    if left.iter().all(|place| history[*place].returned.is_none()) {
        return true;
    }
    let first_return = left.iter().filter_map(|place| history[*place].returned).min();
    left.iter().enumerate().any(|(at, place)| {
        let operation = &history[*place];
        // Whoever returned before it was asked for has to go first.
        if first_return.is_some_and(|returned| returned < operation.invoked) {
            return false;
        }
        let content = |key: &Key| contents.get(key).copied();
        if !operation
            .sees
            .iter()
            .all(|(key, sight)| sight.allows(content(key)))
        {
            return false;
        }
        let mut contents = contents.clone();
        for (key, content) in &operation.writes {
            match content {
                Some(value) => drop(contents.insert(*key, *value)),
                None => drop(contents.remove(key)),
            }
        }
        let mut left = left.to_vec();
        left.remove(at);
        explained(history, &left, &contents)
    })
}

#[test]
fn a_stale_read_is_rejected() {
    let history = |seen| {
        [
            op(1, 2).writes(Some(1)),
            op(3, 4).writes(Some(2)),
            op(5, 6).reads(Some(seen)),
        ]
    };
    check_is(&history(2), true);
    check_is(&history(1), false);
}

#[test]
fn a_lost_update_is_rejected() {
    let swap = |at, from, to| op(at, at + 1).reads(from).writes(Some(to));
    check_is(&[swap(1, None, 1), swap(3, Some(1), 2)], true);
    check_is(
        &[swap(1, None, 1), swap(3, Some(1), 2), swap(5, Some(1), 3)],
        false,
    );
    let lost = [op(1, 2).writes(Some(1)), op(3, 4).reads(None)];
    check_is(&lost, false);
}

#[test]
fn writes_seen_in_two_orders_are_rejected() {
    let writes = [op(1, 10).writes(Some(1)), op(2, 11).writes(Some(2))];
    let read = |at, seen| op(at, at + 1).reads(Some(seen));
    let one_way = [read(12, 1), read(14, 1)];
    let both_ways = [read(12, 1), read(14, 2)];
    check_is(&[&writes[..], &one_way].concat(), true);
    check_is(&[&writes[..], &both_ways].concat(), false);
}

#[test]
fn a_value_that_nobody_wrote_is_rejected() {
    check_is(&[op(1, 2).reads(Some(7))], false);
    // Nor may it be seen before it is asked for.
    check_is(&[op(1, 2).reads(Some(7)), op(3, 4).writes(Some(7))], false);
    check_is(&[op(1, 2).reads(Some(7)), op(3, None).writes(Some(7))], false);
}

#[test]
fn an_unknown_outcome_takes_effect_late_or_never_but_not_twice() {
    let unknown = op(1, None).writes(Some(1));
    let read = |at, seen| op(at, at + 1).reads(seen);
    check_is(&[unknown.clone(), read(2, None)], true);
    check_is(&[unknown.clone(), read(2, None), read(90, Some(1))], true);
    check_is(&[unknown.clone(), read(2, Some(1)), read(90, None)], false);
    let another = op(4, 5).writes(Some(2));
    check_is(
        &[
            unknown.clone(),
            read(2, Some(1)),
            another.clone(),
            read(90, Some(1)),
        ],
        false,
    );
    check_is(&[unknown, read(2, None), another, read(90, Some(1))], true);
    // An unknown removal leaves no value to be known by.
    let removed = [
        op(1, 2).writes(Some(1)),
        op(3, None).writes(None),
        read(4, Some(1)),
        read(90, None),
    ];
    check_is(&removed, true);
}

#[test]
fn a_refusal_tells_what_was_not_there() {
    let refused = |at| op(at, at + 1).sees(0, Sight::Not(Some(1)));
    check_is(&[op(1, 2).writes(Some(1)), refused(3)], false);
    // A write that nobody saw explains it.
    check_is(
        &[op(1, 2).writes(Some(1)), op(3, None).writes(Some(2)), refused(4)],
        true,
    );
}

#[test]
fn keys_written_together_are_seen_together() {
    let both = |at, value| op(at, at + 1).writes(Some(value)).then(1, Some(value));
    let mixed = op(5, 6).reads(Some(1)).sees(1, Sight::Is(Some(2)));
    check_is(&[both(1, 1), both(3, 2), mixed], false);
    let whole = op(5, 6).reads(Some(2)).sees(1, Sight::Is(Some(2)));
    check_is(&[both(1, 1), both(3, 2), whole], true);
}

impl Operation {
    fn then(mut self, key: Key, content: Content) -> Self {
        self.writes.push((key, content));
        self
    }
}

#[test]
fn keys_that_nobody_touches_together_are_searched_apart() {
    let on = |key, at| op(at, at + 1).sees(key, Sight::Is(None));
    let joined = Operation {
        sees: vec![(2, Sight::Is(None)), (5, Sight::Is(None))],
        ..op(9, 10)
    };
    let found = groups(&[on(1, 1), on(2, 3), on(5, 5), joined, on(7, 11)]);
    let keys: Vec<Vec<Key>> = found
        .iter()
        .map(|group| group.keys.iter().copied().collect())
        .collect();
    assert_eq!(keys, [vec![1], vec![2, 5], vec![7]]);
    assert_eq!(found[1].operations, [1, 2, 3]);
}

/// A small history of chance: operations take effect in some order, and one in three tells a lie.
fn small(chance: &mut Chance) -> Vec<Operation> {
    let count = 2 + chance.below(6);
    let mut moments: Vec<u64> = (1..=2 * count).collect();
    chance.shuffle(&mut moments);
    let mut contents = [None, None];
    let mut history = Vec::new();
    for (value, pair) in (1..).zip(moments.chunks(2)) {
        let (invoked, returned) = (pair[0].min(pair[1]), pair[0].max(pair[1]));
        let mut operation = op(invoked, (!chance.percent(25)).then_some(returned));
        let key = usize::try_from(chance.below(2)).unwrap();
        if chance.percent(65) {
            let seen = if chance.percent(30) {
                [None, Some(chance.below(count + 1))][usize::try_from(chance.below(2)).unwrap()]
            } else {
                contents[key]
            };
            let sight = if chance.percent(20) {
                Sight::Not(seen)
            } else {
                Sight::Is(seen)
            };
            operation.sees.push((u32::try_from(key).unwrap(), sight));
        }
        if chance.percent(60) {
            let content = (!chance.percent(25)).then_some(value);
            operation.writes.push((u32::try_from(key).unwrap(), content));
            contents[key] = content;
            if chance.percent(15) {
                operation.writes.push((u32::try_from(1 - key).unwrap(), content));
                contents[1 - key] = content;
            }
        }
        history.push(operation);
    }
    history
}

#[test]
fn small_histories_are_judged_as_by_trying_every_order() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..20_000 {
        let history = small(&mut Chance::new(seed, 0));
        let all: Vec<usize> = (0..history.len()).collect();
        let expected = explained(&history, &all, &BTreeMap::new());
        let found = check(&history);
        assert_eq!(
            found == Verdict::Linearizable,
            expected,
            "seed {seed}, found {found:?}: {history:#?}"
        );
        if expected { yes += 1 } else { no += 1 }
    }
    assert!(yes > 2_000 && no > 2_000, "{yes} and {no}");
}

/// A linearizable history of `count` operations by `clients` on one key, a tenth of them of unknown outcome.
fn long(count: u64, clients: u64, seed: u64) -> Vec<Operation> {
    let mut chance = Chance::new(seed, 1);
    let mut content = None;
    let mut history = Vec::new();
    for value in 0..count {
        // It takes effect at its own moment, and spans those of some operations around it.
        let moment = (value + clients) * 1_000;
        let span = |chance: &mut Chance| chance.below(1_000 * clients / 2);
        let mut operation = op(moment - span(&mut chance), moment + 1 + span(&mut chance));
        match chance.below(10) {
            0..4 => operation = operation.reads(content),
            4..9 => {
                operation = operation.writes(Some(value));
                content = Some(value);
            }
            _ => {
                operation.returned = None;
                operation = operation.writes(Some(value));
                if chance.percent(50) {
                    content = Some(value);
                }
            }
        }
        history.push(operation);
    }
    // No two moments are equal.
    for (place, operation) in (0..).zip(&mut history) {
        operation.invoked = operation.invoked * 10_000 + place;
        operation.returned = operation.returned.map(|returned| returned * 10_000 + place);
    }
    history
}

#[test]
fn long_histories_are_decided_whatever_their_unknown_outcomes() {
    for seed in 0..3 {
        let mut history = long(5_000, 8, seed);
        assert_eq!(check(&history), Verdict::Linearizable, "seed {seed}");
        // One read in the middle answers with what was there long before.
        let answered = history.iter().filter(|operation| operation.returned.is_some());
        let stale = answered.flat_map(|operation| &operation.writes).next().unwrap().1;
        let read = history
            .iter_mut()
            .skip(2_500)
            .find(|operation| !operation.sees.is_empty());
        read.unwrap().sees = vec![(0, Sight::Is(stale))];
        assert!(
            matches!(check(&history), Verdict::Impossible { .. }),
            "seed {seed}"
        );
    }
}
