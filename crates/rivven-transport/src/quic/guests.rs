//! Places for connections of those that are no peers: each kind has its own, and nobody takes all of a kind.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::{
    limits::{MAX_ASKING, MAX_ASKING_OF_ONE, MAX_EXPIRED, MAX_EXPIRED_OF_ONE, MAX_GUESTS, MAX_GUESTS_OF_ONE},
    lock,
};
use crate::identity::Subject;

/// What a connection that is no peer's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An operator or client that calls.
    Guest,
    /// A member whose certificate has expired: it may renew it.
    Expired,
    /// A member that asks who this node is.
    Asking,
}

impl Kind {
    /// How many connections there may be at a time: of all, and of one subject.
    const fn bounds(self) -> (usize, usize) {
        match self {
            Self::Guest => (MAX_GUESTS, MAX_GUESTS_OF_ONE),
            Self::Expired => (MAX_EXPIRED, MAX_EXPIRED_OF_ONE),
            Self::Asking => (MAX_ASKING, MAX_ASKING_OF_ONE),
        }
    }
}

/// The places that are taken. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Guests(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    by_kind: BTreeMap<Kind, usize>,
    /// No entry is 0, so there are no more of them than places.
    by_subject: BTreeMap<(Kind, Subject), usize>,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Guests,
    of: (Kind, Subject),
}

impl Guests {
    /// A place of a kind for a connection of `subject`; `None` when all are taken, or all that one may have.
    pub(super) fn enter(&self, kind: Kind, subject: &Subject) -> Option<Place> {
        let of = (kind, subject.clone());
        let (all, one) = kind.bounds();
        let mut taken = lock(&self.0);
        let taken = &mut *taken;
        let of_kind = taken.by_kind.entry(kind).or_default();
        let of_subject = taken.by_subject.get(&of).copied().unwrap_or(0);
        if *of_kind >= all || of_subject >= one {
            return None;
        }
        *of_kind += 1;
        taken.by_subject.insert(of.clone(), of_subject + 1);
        Some(Place {
            guests: self.clone(),
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.guests.0);
        if let Some(count) = taken.by_kind.get_mut(&self.of.0) {
            *count -= 1;
        }
        if let Some(count) = taken.by_subject.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.by_subject.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Label;

    fn client(number: usize) -> Subject {
        Subject::Client(Label::new(&format!("c{number}")).unwrap())
    }

    #[test]
    fn nobody_takes_all_places_of_a_kind_nor_any_of_another() {
        let guests = Guests::default();
        let mut one: Vec<_> = (0..MAX_GUESTS_OF_ONE)
            .map(|_| guests.enter(Kind::Guest, &client(0)).unwrap())
            .collect();
        assert!(guests.enter(Kind::Guest, &client(0)).is_none());
        let mut others: Vec<_> = (MAX_GUESTS_OF_ONE..MAX_GUESTS)
            .map(|at| guests.enter(Kind::Guest, &client(at)).unwrap())
            .collect();
        assert!(guests.enter(Kind::Guest, &client(MAX_GUESTS)).is_none());
        // Those that come to renew, or to ask, do not notice.
        for (kind, all) in [(Kind::Expired, MAX_EXPIRED), (Kind::Asking, MAX_ASKING)] {
            let of_one = kind.bounds().1;
            let places: Vec<_> = (0..all)
                .map(|at| guests.enter(kind, &Subject::Node((at / of_one) as u64)).unwrap())
                .collect();
            assert!(guests.enter(kind, &Subject::Node(u64::MAX)).is_none());
            drop(places);
            assert!(guests.enter(kind, &Subject::Node(0)).is_some());
        }
        others.pop();
        assert!(
            guests.enter(Kind::Guest, &client(0)).is_none(),
            "it has its share"
        );
        one.pop();
        drop(guests.enter(Kind::Guest, &client(0)).unwrap());
        drop((one, others));
        let taken = lock(&guests.0);
        assert!(taken.by_subject.is_empty() && taken.by_kind.values().all(|count| *count == 0));
    }
}
