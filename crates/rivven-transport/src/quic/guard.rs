//! Connections are checked not only when they are made: certificates expire, nodes are removed, and
//! authorities stop being believed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use quinn::{Connection, VarInt};
use rivven_types::NodeId;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    hello::{Refusal, close},
    limits::{HANDOVER_TIME, RENEWAL_TIME},
    shared::Shared,
    trust::{Side, end_of},
};
use crate::{
    clock::WallClock,
    identity::{CertificateName, NodeIdentity, Subject},
};

/// Longest pause between two checks of a connection.
///
/// Timers stand still while a machine sleeps and calendar time may jump, so even a certificate of a year
/// is looked at this often.
const RECHECK: Duration = Duration::from_secs(60);

/// A peer that has proven its name, and how.
#[derive(Clone, Debug)]
pub(super) struct Certified {
    pub(super) name: CertificateName,
    side: Side,
    chain: Vec<CertificateDer<'static>>,
    /// First second at which the connection may not stand any more, because a certificate of the chain is no
    /// longer valid.
    expires: UnixTime,
    /// It was not valid to begin with: the peer may renew it, and nothing else.
    pub(super) expired: bool,
    /// This node's own certificate had expired when the connection was made.
    own_expired: bool,
}

/// What a check of a standing connection comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays, and is to be checked again after this long at the latest.
    Keep(Duration),
    /// Its calls have [`HANDOVER_TIME`] to move to a new connection, then it is closed.
    HandOver(Refusal),
    /// It is closed.
    Close(Refusal),
}

/// Decides on a standing connection.
pub(super) fn verdict(
    subject: &Subject,
    expires: UnixTime,
    denied: &BTreeSet<NodeId>,
    trusted: bool,
    now: UnixTime,
) -> Verdict {
    let left = Duration::from_secs(expires.as_secs().saturating_sub(now.as_secs()));
    if denied.contains(&subject.node()) {
        Verdict::Close(Refusal::Removed(subject.clone()))
    } else if left.is_zero() {
        Verdict::Close(Refusal::Expired(subject.clone()))
    } else if !trusted {
        Verdict::HandOver(Refusal::Untrusted(subject.clone()))
    } else {
        Verdict::Keep(left.min(RECHECK))
    }
}

impl Certified {
    /// Who `connection` leads to, by the certificate that the peer has proven to own.
    pub(super) fn of(connection: &Connection, side: Side, identity: &NodeIdentity) -> Result<Self, Refusal> {
        let chain = connection
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
            .ok_or(Refusal::Nameless)?;
        let leaf = chain.first().ok_or(Refusal::Nameless)?;
        let end = end_of(chain.iter()).ok_or(Refusal::Nameless)?;
        let now = WallClock::now().as_secs();
        let expired = end <= now;
        // Only who dials is let in with an expired certificate, see `Trust`.
        let end = if expired && side == Side::Dialled {
            now.saturating_add(RENEWAL_TIME.as_secs())
        } else {
            end
        };
        Ok(Self {
            name: identity.template().name_of(leaf).map_err(|_| Refusal::Nameless)?,
            side,
            expires: UnixTime::since_unix_epoch(Duration::from_secs(end)),
            expired,
            own_expired: identity.is_expired(),
            chain: *chain,
        })
    }

    /// Whether this node has calls for the peer, and its own on the same connection.
    fn is_peer(&self) -> bool {
        self.name.subject.is_member() && !self.expired
    }

    fn verdict(&self, shared: &Shared, denied: &BTreeSet<NodeId>) -> Verdict {
        let now = WallClock::now();
        let trusted = shared.trust.verify(self.side, &self.chain, now).is_ok();
        verdict(&self.name.subject, self.expires, denied, trusted, now)
    }
}

/// Closes `connection`, and says why on both sides, as soon as its peer may not have it any more.
pub(super) async fn guard(shared: Arc<Shared>, connection: Connection, certified: Certified) {
    let mut denied = shared.denied.subscribe();
    let mut identity = shared.trust.watch().subscribe();
    let mut handover = None;
    loop {
        let verdict = {
            let denied = denied.borrow_and_update().clone();
            let renewed = !identity.borrow_and_update().is_expired();
            if certified.own_expired && renewed {
                // Renewed: the next connection is made with the new certificate and carries everything.
                connection.close(VarInt::from_u32(close::DONE), b"certificate renewed");
                return;
            }
            certified.verdict(&shared, &denied)
        };
        // A member that has a certificate of a believed authority is dialled anew at this moment.
        let allowed = if certified.is_peer() {
            HANDOVER_TIME
        } else {
            Duration::ZERO
        };
        let pause = match verdict {
            Verdict::Keep(pause) => {
                handover = None;
                pause
            }
            Verdict::HandOver(_) if handover.get_or_insert_with(Instant::now).elapsed() < allowed => allowed,
            Verdict::HandOver(refusal) | Verdict::Close(refusal) => {
                let remote = connection.remote_address();
                warn!(%remote, peer = %certified.name.subject, reason = %refusal, "refused connection");
                connection.close(refusal.close_code(), refusal.to_string().as_bytes());
                return;
            }
        };
        tokio::select! {
            biased;
            _ = connection.closed() => return,
            changed = denied.changed() => if changed.is_err() { return },
            changed = identity.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

/// Nodes that may not have a connection, as a value that can be watched.
pub(super) type Denied = watch::Sender<Arc<BTreeSet<NodeId>>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_with_its_certificate_its_membership_or_its_authority() {
        let subject = Subject::Node(7);
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let none = BTreeSet::new();
        let seven = BTreeSet::from([7]);
        let check = |denied, trusted, now, expected| {
            assert_eq!(verdict(&subject, at(1000), denied, trusted, at(now)), expected);
        };
        check(&none, true, 0, Verdict::Keep(RECHECK));
        check(&none, true, 999, Verdict::Keep(Duration::from_secs(1)));
        check(
            &none,
            true,
            1000,
            Verdict::Close(Refusal::Expired(Subject::Node(7))),
        );
        check(
            &seven,
            true,
            0,
            Verdict::Close(Refusal::Removed(Subject::Node(7))),
        );
        check(
            &none,
            false,
            0,
            Verdict::HandOver(Refusal::Untrusted(Subject::Node(7))),
        );
        // The most telling reason wins.
        check(
            &seven,
            false,
            2000,
            Verdict::Close(Refusal::Removed(Subject::Node(7))),
        );
        check(
            &none,
            false,
            2000,
            Verdict::Close(Refusal::Expired(Subject::Node(7))),
        );
    }
}
