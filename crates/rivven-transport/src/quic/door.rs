//! The door for who has no certificate yet: one call of one method, and out.
//!
//! A stranger comes with an application protocol of its own, says no hello, is no peer, and reaches nothing
//! but a method made for it ([`crate::Method::STRANGERS`]). While no such method is served, TLS turns it away.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream, VarInt};
use rivven_crypto::Negotiated;
use rivven_types::{BootEpoch, InstanceId};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    config::JOIN_ALPN,
    end::AbortOnDrop,
    frame::{FrameError, Head, Kind, Part, max_stranger_frame},
    hello::{Refusal, close},
    limits::{ATTEMPT_COST, ATTEMPTS_IN_HAND, MAX_SOURCES, MAX_STRANGERS, STRANGER_TIME},
    lock,
    read::{Frames, StreamError},
    shared::Shared,
};
use crate::{
    Caller, PeerIdentity, Rejection,
    join::UNAVAILABLE,
    metrics::{Dialler, handshake_failed, refused},
};

/// Whether who connected wants nothing but to join.
pub(super) fn is_stranger(connection: &Connection) -> bool {
    let negotiated = connection
        .handshake_data()
        .and_then(|any| any.downcast::<Negotiated>().ok());
    negotiated.is_some_and(|negotiated| negotiated.protocol.as_deref() == Some(JOIN_ALPN))
}

/// Room for strangers, and what they may get wrong.
pub(super) struct Door {
    room: Arc<Semaphore>,
    attempts: Mutex<Attempts>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self {
            room: Arc::new(Semaphore::new(MAX_STRANGERS)),
            attempts: Mutex::default(),
        }
    }
}

/// Serves the one call of a stranger.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let remote = connection.remote_address();
    let refuse = |refusal: Refusal| {
        shared.warn_refused(remote, &refusal);
        handshake_failed(Dialler::Peer, refusal.reason());
        connection.close(refusal.close_code(), refusal.to_string().as_bytes());
    };
    let Ok(_room) = Arc::clone(&shared.door.room).try_acquire_owned() else {
        return refuse(Refusal::TooManyStrangers);
    };
    if !lock(&shared.door.attempts).try_begin(remote.ip(), Instant::now()) {
        return refuse(Refusal::Throttled);
    }
    match timeout(STRANGER_TIME, one_call(&shared, &connection)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            debug!(%remote, %error, "a stranger broke off, or breaks the protocol");
            connection.close(VarInt::from_u32(close::PROTOCOL), b"protocol error");
        }
        Err(_) => debug!(%remote, "a stranger took too long"),
    }
    connection.close(VarInt::from_u32(close::DONE), b"done");
}

async fn one_call(shared: &Arc<Shared>, connection: &Connection) -> Result<(), StreamError> {
    let remote = connection.remote_address();
    let (mut send, recv) = connection.accept_bi().await.map_err(std::io::Error::other)?;
    let mut frames = Frames::new(recv, max_stranger_frame());
    let Some(Part::Head(head)) = frames.next().await? else {
        return Err(FrameError::TooShort.into());
    };
    // A stranger's own idea of how long it waits does not count, nor does its trace.
    if !matches!(head.kind, Kind::Request { .. }) {
        return Err(FrameError::Direction.into());
    }
    let answer = match refuse(shared, head.method, head.len) {
        Some(rejection) => {
            refused("stranger", &rejection);
            Some(Err(rejection))
        }
        None => match frames.next().await? {
            Some(Part::Body(_, body)) => call(shared, head.method, body).await,
            Some(Part::Head(_)) | None => return Err(FrameError::TooShort.into()),
        },
    };
    match &answer {
        Some(Ok(_)) => info!(%remote, "let a node join"),
        Some(Err(rejection)) => {
            info!(%remote, code = rejection.code, "refused to let a stranger join");
        }
        None => warn!(%remote, "the answer to a stranger is lost"),
    }
    let is_its_fault = matches!(&answer, Some(Err(rejection)) if rejection.code != UNAVAILABLE);
    if !is_its_fault {
        lock(&shared.door.attempts).give_back(remote.ip(), Instant::now());
    }
    write_answer(&mut send, head, answer).await?;
    // The peer closes once it has read the answer; closing before could outrun it.
    connection.closed().await;
    Ok(())
}

/// What speaks against a request before its body is read.
fn refuse(shared: &Shared, method: u16, len: usize) -> Option<Rejection> {
    if shared.is_closing() {
        return Some(Rejection::new(
            "shutting-down",
            "this node is shutting down; call another one",
        ));
    }
    let spec = shared.router.spec(method).filter(|spec| spec.strangers);
    let Some(spec) = spec else {
        let text = format!("method {method:#06x} is not for callers without a certificate; join first");
        return Some(Rejection::new("certificate-required", text));
    };
    (len > spec.max_request).then(|| {
        let text = format!("{}: {len} bytes, the limit is {}", spec.name, spec.max_request);
        Rejection::new("request-too-large", text)
    })
}

/// Runs the handler where handlers run. `None` when it ends without an answer, and may have acted.
async fn call(shared: &Shared, method: u16, body: Bytes) -> Option<Result<Bytes, Rejection>> {
    let caller = Caller {
        peer: PeerIdentity {
            node: 0,
            instance: InstanceId::from_bytes([0; 16]),
            boot_epoch: BootEpoch(0),
        },
        role: None,
        deadline: Instant::now() + STRANGER_TIME,
        trace: None,
    };
    let router = shared.router.clone();
    let in_flight = shared.in_flight.token();
    let work = async move {
        let answer = router.dispatch(caller, method, body).await;
        drop(in_flight);
        answer
    };
    let handlers = AbortOnDrop(shared.callers.sibling());
    handlers.0.spawn(work).await.ok().flatten()
}

async fn write_answer(
    send: &mut SendStream,
    request: Head,
    answer: Option<Result<Bytes, Rejection>>,
) -> Result<(), StreamError> {
    let (kind, body) = match answer {
        Some(Ok(body)) => (Kind::Response, body),
        Some(Err(rejection)) => (Kind::Rejection, rejection.encode().unwrap_or_default()),
        None => (Kind::Lost, Bytes::new()),
    };
    let len = body.len();
    let mut head = BytesMut::new();
    // An answer fits its method's limit, so its length can be said.
    Head { kind, len, ..request }.encode(&mut head);
    send.write_all(&head).await.map_err(std::io::Error::other)?;
    send.write_all(&body).await.map_err(std::io::Error::other)?;
    // The stream is open, so this cannot fail.
    let _ = send.finish();
    Ok(())
}

/// Attempts, by where they came from: a source has a few in hand, and earns one back now and then.
///
/// An attempt is charged when it begins, so that one who says nothing, or comes with many at once, pays too;
/// one that succeeds, or that this node cannot decide, is given back.
///
/// A secret of 256 bits is not guessed at any rate. What is bounded here is the work and the log lines that
/// a stranger causes.
#[derive(Default)]
struct Attempts {
    /// When a source will have earned back everything.
    paid_at: BTreeMap<IpAddr, Instant>,
}

impl Attempts {
    /// Whether `from` has an attempt in hand.
    fn may_try(&self, from: IpAddr, now: Instant) -> bool {
        let debt = self
            .paid_at
            .get(&source(from))
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        debt + ATTEMPT_COST <= ATTEMPT_COST * ATTEMPTS_IN_HAND
    }

    /// Charges `from` for an attempt, if it has one in hand.
    fn try_begin(&mut self, from: IpAddr, now: Instant) -> bool {
        let may = self.may_try(from, now);
        if may {
            self.charge(from, now);
        }
        may
    }

    /// Takes back the charge for an attempt.
    fn give_back(&mut self, from: IpAddr, now: Instant) {
        let from = source(from);
        if let Some(at) = self.paid_at.get_mut(&from) {
            *at = at.checked_sub(ATTEMPT_COST).unwrap_or(now);
        }
    }

    /// Charges `from`. Of too many sources, the one closest to being paid is forgotten.
    fn charge(&mut self, from: IpAddr, now: Instant) {
        let from = source(from);
        self.paid_at.retain(|_, at| *at > now);
        if self.paid_at.len() >= MAX_SOURCES
            && !self.paid_at.contains_key(&from)
            && let Some(nearest) = self
                .paid_at
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(from, _)| *from)
        {
            self.paid_at.remove(&nearest);
        }
        let at = self.paid_at.entry(from).or_insert(now);
        *at = (*at).max(now) + ATTEMPT_COST;
    }
}

/// Where an address belongs: IPv6 networks hand whole /64s to one host.
fn source(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_has_a_few_attempts_and_earns_them_back() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let bad = ip("2001:db8::1");
        for _ in 0..ATTEMPTS_IN_HAND {
            assert!(attempts.may_try(bad, now));
            attempts.charge(bad, now);
        }
        // Its whole network is one source, and nobody else is.
        assert!(!attempts.may_try(ip("2001:db8::2"), now));
        assert!(attempts.may_try(ip("2001:db8:0:1::1"), now));
        assert!(attempts.may_try(ip("10.0.0.1"), now));
        assert!(attempts.may_try(bad, now + ATTEMPT_COST));
        assert!(attempts.try_begin(bad, now + ATTEMPT_COST));
        assert!(!attempts.try_begin(bad, now + ATTEMPT_COST));
        // One that succeeded costs nothing.
        attempts.give_back(bad, now + ATTEMPT_COST);
        assert!(attempts.try_begin(bad, now + ATTEMPT_COST));
        assert!(attempts.may_try(ip("::ffff:10.0.0.1"), now));
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_bounded_and_those_that_have_paid_are_forgotten() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let ip = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..MAX_SOURCES {
            attempts.charge(ip(n), now);
        }
        attempts.charge(ip(0), now);
        attempts.charge(ip(MAX_SOURCES), now);
        assert_eq!(attempts.paid_at.len(), MAX_SOURCES);
        assert!(attempts.paid_at.contains_key(&ip(0)) && attempts.paid_at.contains_key(&ip(MAX_SOURCES)));
        attempts.charge(ip(7), now + ATTEMPT_COST * 3);
        assert_eq!(attempts.paid_at.len(), 1);
    }
}
