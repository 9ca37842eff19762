//! Making connections: one attempt, and the task that keeps a way to a peer open while it is wanted.

use std::{
    future::pending,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{Connection, ConnectionError, VarInt};
use rivven_crypto::random_bytes;
use rivven_types::{NodeId, PeerAddr};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use super::{
    config::SERVER_NAME,
    control,
    end::{self, Met},
    explain::explain,
    hello::{Hello, Purpose, Refusal, close},
    lane::{Lane, Lanes},
    limits::{
        ANSWER_TIMEOUT, DIAL_TIMEOUT, HELLO_TIMEOUT, MAX_BACKOFF, MIN_BACKOFF, QUICK_ATTEMPTS,
        SLOW_TAP_INTERVAL, STABLE_AFTER, TAP_INTERVAL,
    },
    line::Line,
    peer::{DialError, Link, Peer},
    rank::Claim,
    shared::{Shared, classes, read_hello, write_hello},
    tap::begins_to_listen,
    trust::Side,
};
use crate::{
    Class, PeerIdentity,
    identity::{NodeIdentity, Subject},
    metrics::{Dialler, handshake_failed},
};

/// Keeps the way to `peer` for `purpose` open whenever calls want it, and replaces a connection that was made
/// before this node's certificate or authorities changed.
pub(super) async fn supervise(shared: Arc<Shared>, peer: Arc<Peer>, purpose: Purpose) {
    let way = peer.way(purpose);
    let watch = shared.trust.watch();
    let mut changes = (way.subscribe(), watch.subscribe());
    let mut failures = 0_u32;
    let mut made: Option<Instant> = None;
    let mut tried: Option<SocketAddr> = None;
    loop {
        while !way.is_needed(&watch.current()) {
            if way.is_up() {
                made.get_or_insert_with(Instant::now);
            }
            tokio::select! {
                biased;
                () = way.wanted.notified() => {}
                Ok(()) = changes.0.changed() => {}
                Ok(()) = changes.1.changed() => {}
            }
        }
        // A connection that did not last counts as a failed attempt, so that two nodes that disagree do not dial
        // each other without a pause.
        if let Some(made) = made.take() {
            let failed = made.elapsed() < STABLE_AFTER && way.has_failed();
            failures = if failed { failures.saturating_add(1) } else { 0 };
        }
        if failures > 0 {
            tokio::select! {
                biased;
                () = way.poked.notified() => failures = 0,
                () = returns(&shared, tried) => {}
                () = sleep(backoff(failures)) => {}
            }
            if !way.is_needed(&watch.current()) {
                continue;
            }
        }
        way.note(Link::Dialing);
        match connect(&shared, &peer, purpose, failures, &mut tried).await {
            Ok(()) => made = Some(Instant::now()),
            Err(DialError::Needless) if !way.is_needed(&watch.current()) => {}
            Err(error) => {
                debug!(peer = peer.node, ?purpose, ?error, failures, "no connection");
                failures = failures.saturating_add(1);
                way.note(Link::Failed(error));
            }
        }
    }
}

/// A random pause below a bound that doubles with each failure ("full jitter"), so that many nodes do not
/// return to a restarted one in step.
fn backoff(failures: u32) -> Duration {
    let bound = MIN_BACKOFF
        .saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX))
        .min(MAX_BACKOFF);
    let random = random_bytes().map_or(u16::MAX, u16::from_be_bytes);
    bound.mul_f64(f64::from(random) / f64::from(u16::MAX))
}

async fn connect(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    purpose: Purpose,
    attempt: u32,
    tried: &mut Option<SocketAddr>,
) -> Result<(), DialError> {
    let addr = peer
        .addr()
        .ok_or_else(|| DialError::Unreachable("no address is known for this node".into()))?;
    let own = shared.trust.watch().current();
    let to = Whom::Peer(peer, &own);
    let dialled = dial(shared, &addr, to, purpose, (attempt, tried)).await?;
    let lanes = open_lanes(shared, peer.node, &dialled.connection, purpose)
        .await
        .map_err(|error| DialError::Unreachable(explain(&error).to_string()))?;
    let line = Line::new(dialled.connection, lanes, dialled.claim, own);
    peer.offer(purpose, &line, &dialled.identity, true);
    let met = Met {
        shared: Arc::clone(shared),
        purpose,
        peer: Some(Arc::clone(peer)),
        identity: dialled.identity,
        subject: dialled.subject,
        expired: false,
        dialled: true,
        control: dialled.control,
        _room: None,
    };
    shared.tasks.spawn(end::run(met, line));
    Ok(())
}

/// Who is dialled.
#[derive(Clone, Copy)]
pub(super) enum Whom<'a> {
    /// Whoever answers, to learn who it is.
    Anybody,
    /// This peer, by this node as it is at this moment.
    Peer(&'a Peer, &'a NodeIdentity),
}

/// A connection that has passed both hellos.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) identity: PeerIdentity,
    subject: Subject,
    claim: Claim,
    control: control::Streams,
}

/// One attempt to reach `whom` at `addr`: [`DIAL_TIMEOUT`] for the connection, [`ANSWER_TIMEOUT`] for the answer.
///
/// Of several addresses of a host name, `attempt` picks one, so that repeated attempts try them all.
async fn dial(
    shared: &Arc<Shared>,
    addr: &PeerAddr,
    whom: Whom<'_>,
    purpose: Purpose,
    (attempt, tried): (u32, &mut Option<SocketAddr>),
) -> Result<Dialled, DialError> {
    let until = Instant::now() + DIAL_TIMEOUT;
    let remotes = resolve(shared, addr, until).await?;
    let picked = (attempt as usize).checked_rem(remotes.len());
    let Some(remote) = picked.and_then(|picked| remotes.get(picked)) else {
        return Err(DialError::Unreachable(format!("{addr} has no address")));
    };
    *tried = Some(*remote);
    let taps = matches!(whom, Whom::Peer(..)).then(|| tap_interval(attempt));
    dial_at(shared, *remote, whom, purpose, (taps, until)).await
}

/// Learns who answers at `addr`. Every address of a host name is tried in turn, each with its share of the time
/// that is left until `deadline`.
pub(super) async fn discover(
    shared: &Arc<Shared>,
    addr: &PeerAddr,
    deadline: Instant,
) -> Result<Dialled, DialError> {
    let remotes = resolve(shared, addr, deadline).await?;
    let mut failure = DialError::Unreachable(format!("{addr} has no address"));
    for (at, remote) in remotes.iter().enumerate() {
        let until = share(deadline, remotes.len() - at, DIAL_TIMEOUT);
        match dial_at(shared, *remote, Whom::Anybody, Purpose::Discover, (None, until)).await {
            Ok(dialled) => return Ok(dialled),
            // Who answered and does not fit says more than who did not answer.
            Err(error) => {
                if matches!(failure, DialError::Unreachable(_)) {
                    failure = error;
                }
            }
        }
    }
    Err(failure)
}

/// Until when the first of `left` addresses is tried: for an equal share of the time until `deadline`, and for
/// at most `longest`.
pub(super) fn share(deadline: Instant, left: usize, longest: Duration) -> Instant {
    let now = Instant::now();
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    now + (deadline.saturating_duration_since(now) / left).min(longest)
}

async fn dial_at(
    shared: &Arc<Shared>,
    remote: SocketAddr,
    whom: Whom<'_>,
    purpose: Purpose,
    (taps, until): (Option<Duration>, Instant),
) -> Result<Dialled, DialError> {
    let unanswered = || {
        handshake_failed(Dialler::Us, "timeout");
        DialError::Unreachable(format!("nobody answered at {remote}"))
    };
    let reached = timeout_at(until, reach(shared, remote, taps)).await;
    let connection = reached.map_err(|_| unanswered())??;
    let until = match whom {
        Whom::Anybody => until,
        Whom::Peer(..) => Instant::now() + ANSWER_TIMEOUT,
    };
    // Kept until the connection is closed, if it is: see `accept`.
    let mut streams = None;
    let greeting = greet(shared, &connection, whom, purpose, &mut streams);
    match timeout_at(until, greeting).await {
        Ok(greeted) => greeted.map_err(|error| close_after(shared, &connection, remote, error)),
        Err(_) => {
            // Whoever watches over its certificate would keep it open otherwise.
            connection.close(VarInt::from_u32(close::PROTOCOL), b"no hello in time");
            Err(unanswered())
        }
    }
}

/// Shakes hands with whoever listens at `remote`. With a pause between `taps` it is noticed when that begins only
/// later, and a fresh handshake joins the first one; the first of both to be answered is used.
async fn reach(shared: &Shared, remote: SocketAddr, taps: Option<Duration>) -> Result<Connection, DialError> {
    let begin = || {
        shared
            .connect(remote, SERVER_NAME)
            .map_err(DialError::Unreachable)
    };
    let mut first = begin()?;
    let answered = tokio::select! {
        biased;
        answered = &mut first => answered,
        () = taps_at(shared, remote, taps) => {
            let second = begin()?;
            tokio::select! {
                biased;
                answered = second => answered,
                answered = first => answered,
            }
        }
    };
    answered.map_err(|error| failed(shared, remote, &error))
}

/// Resolves when somebody begins to listen at `remote`. Beyond [`MAX_TAPS`](super::limits::MAX_TAPS) peers never: such
/// a peer is met when QUIC repeats itself, or with the next attempt.
async fn taps_at(shared: &Shared, remote: SocketAddr, interval: Option<Duration>) {
    match (interval, shared.taps.try_acquire()) {
        (Some(interval), Ok(_turn)) => begins_to_listen(remote, interval).await,
        _ => pending().await,
    }
}

/// Resolves when somebody begins to listen where nobody did at the last attempt.
async fn returns(shared: &Shared, tried: Option<SocketAddr>) {
    match tried {
        Some(remote) => taps_at(shared, remote, Some(SLOW_TAP_INTERVAL)).await,
        None => pending().await,
    }
}

/// The pause between taps during an attempt.
const fn tap_interval(attempt: u32) -> Duration {
    if attempt < QUICK_ATTEMPTS {
        TAP_INTERVAL
    } else {
        SLOW_TAP_INTERVAL
    }
}

/// The addresses that `addr` stands for, at least one.
async fn resolve(shared: &Shared, addr: &PeerAddr, until: Instant) -> Result<Vec<SocketAddr>, DialError> {
    let usable = |ip: IpAddr| shared.local_addr.is_ipv6() || ip.is_ipv4();
    let found = shared.lookups.addresses(addr, &shared.tasks, usable);
    match timeout_at(until, found).await {
        Ok(found) => found.map_err(DialError::Unreachable),
        Err(_) => {
            handshake_failed(Dialler::Us, "timeout");
            let cause = format!("the resolver did not answer what the addresses of {addr} are");
            Err(DialError::Unreachable(cause))
        }
    }
}

/// Why the hellos came to nothing.
enum GreetError {
    Refused(Refusal),
    Lost(ConnectionError),
    Unreadable(String),
    Needless,
}

/// Says who this node is, and learns and checks who answers.
async fn greet(
    shared: &Arc<Shared>,
    connection: &Connection,
    whom: Whom<'_>,
    purpose: Purpose,
    streams: &mut Option<control::Streams>,
) -> Result<Dialled, GreetError> {
    let name = shared
        .certify(connection, Side::Answered)
        .map_err(GreetError::Refused)?
        .name;
    let mut hello = shared.hello(purpose, connection.remote_address());
    if let Whom::Peer(peer, own) = whom {
        let (found, expected) = (name.subject.node(), peer.node);
        if found != expected {
            return Err(GreetError::Refused(Refusal::Unexpected { found, expected }));
        }
        let local = (shared.local.node, shared.local.boot_epoch);
        let claim = peer.claim(purpose, local, own).ok_or(GreetError::Needless)?;
        (hello.number, hello.seen) = (claim.turn.number, claim.seen);
    }
    let claim = hello.claim(name.subject.node());
    let opened = connection.open_bi().await.map_err(GreetError::Lost)?;
    let (send, recv) = streams.insert(opened);
    let answer = async {
        write_hello(send, &hello).await?;
        read_hello(recv).await
    };
    let hello = match answer.await {
        Ok(bytes) => Hello::decode(&bytes, shared.versions).map_err(GreetError::Refused)?,
        // The close frame of a refusal explains more than the broken stream.
        Err(error) => {
            return Err(match connection.close_reason() {
                Some(reason) => GreetError::Lost(reason),
                None => GreetError::Unreadable(error.to_string()),
            });
        }
    };
    shared.check_hello(&hello, &name).map_err(GreetError::Refused)?;
    if hello.identity.node != shared.local.node {
        let peer = shared
            .peer_or_insert(hello.identity.node)
            .map_err(GreetError::Refused)?;
        peer.admit(&hello.identity).map_err(GreetError::Refused)?;
    }
    shared.observe(hello.observed.ip());
    let missing = || GreetError::Unreadable("the stream is gone".into());
    let control = streams.take().ok_or_else(missing)?;
    Ok(Dialled {
        connection: connection.clone(),
        identity: hello.identity,
        subject: name.subject,
        claim,
        control,
    })
}

fn close_after(shared: &Shared, connection: &Connection, remote: SocketAddr, error: GreetError) -> DialError {
    match error {
        GreetError::Refused(refusal) => {
            handshake_failed(Dialler::Us, refusal.reason());
            shared.warn_refused(remote, &refusal);
            let text = refusal.to_string();
            connection.close(refusal.close_code(), text.as_bytes());
            match refusal {
                Refusal::Version { .. } | Refusal::OtherCluster { .. } => DialError::Incompatible(text),
                Refusal::DuplicateNode(_) => DialError::Duplicate(text),
                _ => DialError::Unreachable(text),
            }
        }
        GreetError::Lost(error) => failed(shared, remote, &error),
        GreetError::Needless => {
            connection.close(VarInt::from_u32(close::DONE), b"connected already");
            DialError::Needless
        }
        GreetError::Unreadable(cause) => {
            handshake_failed(Dialler::Us, Refusal::Malformed.reason());
            connection.close(VarInt::from_u32(close::MALFORMED), b"malformed hello");
            DialError::Unreachable(format!("the hello of {remote} cannot be read: {cause}"))
        }
    }
}

/// What a failed connection means, said aloud when one side refused the other.
fn failed(shared: &Shared, remote: SocketAddr, error: &ConnectionError) -> DialError {
    let reason = explain(error);
    handshake_failed(Dialler::Us, reason.reason());
    if reason.is_refusal() {
        shared.warn_explained(remote, &reason);
    }
    let text = format!("{remote}: {reason}");
    let code = match error {
        ConnectionError::ApplicationClosed(frame) => u32::try_from(frame.error_code.into_inner()).ok(),
        _ => None,
    };
    match code {
        Some(close::DUPLICATE_NODE) => DialError::Duplicate(text),
        Some(close::SUPERSEDED) => DialError::Needless,
        Some(close::REMOVED) => DialError::Removed(text),
        Some(code) if Refusal::is_incompatible(code) => DialError::Incompatible(text),
        Some(_) | None => DialError::Unreachable(text),
    }
}

/// Opens one stream for each class of `purpose`. A peer that leaves no room for them loses the connection.
pub(super) async fn open_lanes(
    shared: &Shared,
    node: NodeId,
    connection: &Connection,
    purpose: Purpose,
) -> Result<Lanes, ConnectionError> {
    let opening = async {
        let mut lanes = Vec::new();
        for class in classes(purpose) {
            let (mut send, recv) = connection.open_bi().await?;
            // The stream is new, so neither call can find it closed; the write tells if the connection is.
            let _ = send.set_priority(priority(*class));
            if send.write_all(&[class_byte(*class)]).await.is_err() {
                // Nobody stops a stream of a class, so the connection is gone.
                let ended = connection.close_reason();
                return Err(ended.unwrap_or(ConnectionError::LocallyClosed));
            }
            let lane = Lane::start(shared, (*class, node), connection, (send, recv));
            lanes.push((*class, lane));
        }
        Ok(lanes)
    };
    // The handshake says how many streams there may be, so who keeps to the protocol is not waited for.
    let opened = timeout(HELLO_TIMEOUT, opening).await;
    opened.unwrap_or_else(|_| {
        connection.close(
            VarInt::from_u32(close::PROTOCOL),
            b"no room for the streams of calls",
        );
        Err(ConnectionError::LocallyClosed)
    })
}

/// First byte of a class's stream.
pub(super) const fn class_byte(class: Class) -> u8 {
    match class {
        Class::Control => 0,
        Class::Raft => 1,
        Class::Client => 2,
        Class::Bulk => 3,
    }
}

/// Priority of a class's stream among those of its connection.
pub(super) const fn priority(class: Class) -> i32 {
    match class {
        Class::Control => 2,
        Class::Raft => 1,
        Class::Client | Class::Bulk => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_never_beyond() {
        for (failures, bound) in [(0, MIN_BACKOFF), (3, MIN_BACKOFF * 8), (40, MAX_BACKOFF)] {
            for _ in 0..100 {
                assert!(backoff(failures) <= bound);
            }
        }
    }
}
