//! Clients that ask any node for anything, all the time, and write down what they were told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rivven_raft::{
    Consistency, KvCommand, KvCompare, KvEntry, KvOp, KvOpResult, KvResponse, KvStore, KvTxn, Outcome,
    ProposalId, ProposeError, ProposeOptions, SessionId,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    chance::Chance,
    cluster::Cluster,
    history::{Change, History, Request, text_of, value_of},
    host::{Host, Node},
    linear::{Content, Key},
};

/// Keys that all clients share; neighbours are changed together by transactions.
pub const KEYS: u32 = 6;

/// How long a client waits for an answer before it counts the outcome as unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a session's proposal is repeated.
const PERSISTENCE: Duration = Duration::from_secs(12);

/// Time to live of a session, beyond any trouble that a run makes.
const SESSION_TTL: Duration = Duration::from_secs(3_600);

/// How clients ask.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Whether every change goes through a session. It must where requests are delivered twice.
    pub sessions_only: bool,
    /// Longest pause between two requests, in milliseconds.
    pub pause_ms: u64,
    /// Length of most values, in bytes; some are much longer.
    pub value_bytes: u64,
}

/// One client.
pub struct Client {
    cluster: Cluster,
    history: Arc<Mutex<History>>,
    number: u64,
    chance: Chance,
    habits: Habits,
    /// The version of each key that it saw last: value and revision.
    seen: BTreeMap<Key, Option<(u64, u64)>>,
    session: Option<(SessionId, u64)>,
}

/// What came of asking a node.
enum Asked<T> {
    Answered(T),
    /// It did not happen and never will.
    NotDone,
    Unknown,
    /// The session is gone; it may have happened.
    SessionLost,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The client of this number.
    #[must_use]
    pub fn new(cluster: &Cluster, history: &Arc<Mutex<History>>, number: u64, habits: Habits) -> Self {
        Self {
            cluster: cluster.clone(),
            history: Arc::clone(history),
            number,
            chance: Chance::new(cluster.world().seed, 1 << 40 | number),
            habits,
            seen: BTreeMap::new(),
            session: None,
        }
    }

    /// Asks until `until`.
    pub async fn run(mut self, until: Instant) {
        // Every second client has a session.
        let with_session = self.habits.sessions_only || self.number.is_multiple_of(2);
        while Instant::now() < until {
            let pause = Duration::from_millis(self.chance.below(self.habits.pause_ms + 1));
            sleep(pause).await;
            let Some(host) = self.cluster.any_host(&mut self.chance) else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            if self.chance.percent(40) {
                self.read(&host).await;
                continue;
            }
            if with_session && self.session.is_none() {
                self.open_session(&host).await;
                continue;
            }
            let request = self.request();
            match self.session {
                Some((session, seq)) => {
                    let next = (session, seq + 1);
                    self.session = Some(next);
                    self.change_in_session(request, next).await;
                }
                None => self.change(&host, request).await,
            }
        }
    }

    /// Reads every key once, so that the history ends with what is there.
    pub async fn read_all(mut self, host: &Host) {
        for key in 0..KEYS {
            self.read_key(host, key, Consistency::Linearizable).await;
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // A history of a run that panicked is still one.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&mut self, host: &Host) {
        let key = self.any_key();
        let by_lease = self.cluster.world().lease_reads && self.chance.percent(50);
        let how = if by_lease {
            Consistency::Lease
        } else {
            Consistency::Linearizable
        };
        self.read_key(host, key, how).await;
    }

    async fn read_key(&mut self, host: &Host, key: Key, how: Consistency) {
        let invoked = self.history().moment();
        let name = text_of(key);
        let read = move |node: Node| async move {
            let read = node.read_within(how, PATIENCE, |kv: &KvStore| kv.get(&name).cloned());
            read.await.map_err(|error| error.to_string())
        };
        // A failed read changed nothing and saw nothing.
        if let Some(Ok(read)) = on(host, read).await {
            let version = read.value.as_ref().map(version);
            self.seen.insert(key, version);
            self.history().read(self.number, invoked, (key, how), version);
        }
    }

    async fn open_session(&mut self, host: &Host) {
        let open =
            |node: Node| async move { node.open_session(SESSION_TTL).await.map(|session| session.id()) };
        if let Some(Ok(session)) = on(host, open).await {
            self.session = Some((session, 0));
        }
    }

    fn any_key(&mut self) -> Key {
        u32::try_from(self.chance.below(KEYS.into())).unwrap_or_default()
    }

    /// A change of chance, based on what this client saw last.
    fn request(&mut self) -> Request {
        let key = self.any_key();
        let seen = self.seen.get(&key).copied();
        let value = self.history().next_value();
        match self.chance.below(10) {
            0..5 => Request::Put { key, value },
            5..7 => Request::Cas {
                key,
                expected: seen.flatten(),
                content: self.chance.percent(85).then_some(value),
            },
            7 => Request::Delete { key },
            8 => Request::Txn {
                keys: [key, key ^ 1],
                expected: seen.flatten(),
                value,
            },
            _ => Request::Once { value },
        }
    }

    fn command(&mut self, request: &Request) -> KvCommand {
        let len =
            if self.chance.percent(2) { 40 } else { 1 } * self.chance.below(self.habits.value_bytes + 1);
        let bytes = |value: u64| super::history::bytes_of(value, len);
        match *request {
            Request::Put { key, value } => KvCommand::put(text_of(key), bytes(value)),
            Request::Delete { key } => KvCommand::delete(text_of(key)),
            Request::Cas {
                key,
                expected,
                content,
            } => KvCommand::cas(
                text_of(key),
                expected.map(|(_, revision)| revision),
                content.map(bytes),
            ),
            Request::Once { value } => KvCommand::put(super::history::once_of(value), bytes(value)),
            Request::Txn {
                keys: [first, second],
                expected,
                value,
            } => {
                let (first, second) = (text_of(first), text_of(second));
                let when = match expected {
                    Some((_, revision)) => KvCompare::mod_revision(&first, revision),
                    None => KvCompare::absent(&first),
                };
                let txn = KvTxn::new().when(when);
                let txn = txn
                    .then(KvOp::put(&first, bytes(value)))
                    .then(KvOp::put(&second, bytes(value)));
                KvCommand::Txn(txn.otherwise(KvOp::get(first)).otherwise(KvOp::get(second)))
            }
        }
    }

    async fn change(&mut self, host: &Host, request: Request) {
        let command = self.command(&request);
        let change = self.history().invoke(self.number, request);
        let asked = propose(host, command, None).await;
        self.end(change, asked);
    }

    /// Repeats one proposal, on any node, until its outcome is known.
    async fn change_in_session(&mut self, request: Request, (session, seq): (SessionId, u64)) {
        let command = self.command(&request);
        let change = self.history().invoke(self.number, request);
        let until = Instant::now() + PERSISTENCE;
        let mut tried = false;
        let asked = loop {
            let Some(host) = self.cluster.any_host(&mut self.chance) else {
                sleep(Duration::from_millis(20)).await;
                if Instant::now() >= until {
                    break if tried { Asked::Unknown } else { Asked::NotDone };
                }
                continue;
            };
            let id = ProposalId { session, seq };
            match propose(&host, command.clone(), Some(id)).await {
                // Of several attempts one may have been done, and another not.
                Asked::NotDone if !tried => {}
                Asked::NotDone | Asked::Unknown => tried = true,
                ended @ (Asked::Answered(_) | Asked::SessionLost) => break ended,
            }
            if Instant::now() >= until {
                break if tried { Asked::Unknown } else { Asked::NotDone };
            }
            sleep(self.chance.millis(1, 50)).await;
        };
        if matches!(asked, Asked::SessionLost) {
            self.session = None;
        }
        self.end(change, asked);
    }

    fn end(&mut self, change: Change, asked: Asked<KvResponse>) {
        let mut history = self.history();
        match asked {
            Asked::NotDone => history.forget(change),
            Asked::Unknown | Asked::SessionLost => history.lose(change),
            Asked::Answered(response) => {
                let told = told(&change.request, &response);
                history.finish(change, response);
                drop(history);
                self.seen.extend(told);
            }
        }
    }
}

/// What a client knows of keys after an answer.
fn told(request: &Request, response: &KvResponse) -> Vec<(Key, Option<(u64, u64)>)> {
    match (request, response) {
        (Request::Put { key, value }, KvResponse::Written { revision, .. }) => {
            vec![(*key, Some((*value, *revision)))]
        }
        (Request::Cas { key, content, .. }, KvResponse::Written { revision, .. }) => {
            vec![(*key, content.map(|value| (value, *revision)))]
        }
        (Request::Delete { key } | Request::Cas { key, .. }, KvResponse::Deleted { .. }) => {
            vec![(*key, None)]
        }
        (
            Request::Txn { keys, value, .. },
            KvResponse::Txn {
                succeeded: true,
                revision,
                ..
            },
        ) => keys.map(|key| (key, Some((*value, *revision)))).to_vec(),
        (Request::Txn { keys, .. }, KvResponse::Txn { results, .. }) => {
            keys.iter().copied().zip(results.iter().map(read_in)).collect()
        }
        _ => Vec::new(),
    }
}

/// What a read of one key in a transaction saw.
#[must_use]
pub fn read_in(result: &KvOpResult) -> Option<(u64, u64)> {
    match result {
        KvOpResult::Range { entries, .. } => entries.first().map(|(_, entry)| version(entry)),
        _ => None,
    }
}

/// Value and revision of an entry.
#[must_use]
pub fn version(entry: &KvEntry) -> (u64, u64) {
    (value_of(&entry.value), entry.mod_revision)
}

/// Asks a node as a part of its process does: the answer is lost with the process.
async fn on<T, F, Fut>(host: &Host, ask: F) -> Option<T>
where
    T: Send + 'static,
    F: FnOnce(Node) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let (node, tasks) = host.node()?;
    let asked = tasks.spawn(ask(node));
    timeout(PATIENCE + Duration::from_secs(1), asked)
        .await
        .ok()?
        .ok()?
}

async fn propose(host: &Host, command: KvCommand, id: Option<ProposalId>) -> Asked<KvResponse> {
    if host.node().is_none() {
        return Asked::NotDone;
    }
    let propose = |node: Node| async move {
        let options = ProposeOptions {
            deadline: PATIENCE,
            id,
        };
        node.propose_with(command, options).await
    };
    match on(host, propose).await {
        Some(Ok(response)) => Asked::Answered(response),
        Some(Err(ProposeError::SessionLost { .. })) => Asked::SessionLost,
        Some(Err(error)) if error.outcome() == Outcome::NotDone => Asked::NotDone,
        Some(Err(_)) | None => Asked::Unknown,
    }
}

/// What a change leaves, if it happens.
#[must_use]
pub fn leaves(request: &Request) -> Vec<(Key, Content)> {
    match *request {
        Request::Put { key, value } => vec![(key, Some(value))],
        Request::Cas { key, content, .. } => vec![(key, content)],
        Request::Delete { key } => vec![(key, None)],
        Request::Txn { keys, value, .. } => keys.map(|key| (key, Some(value))).to_vec(),
        Request::Once { .. } => Vec::new(),
    }
}
