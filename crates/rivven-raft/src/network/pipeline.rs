//! Replication without waiting: several requests are on their way to a follower at a time.
//!
//! The follower syncs what has arrived while the next requests travel, so its disk and the network work at the same
//! time. Requests leave in order on one stream of the connection. One that overtakes the one before it all the same
//! finds that missing, and is sent again.
//!
//! The core knows an answer by how far the logs match, and takes it for the answer to every request that reaches no
//! further. A request that only carries word of a commit reaches as far as the one before it. Were the answer to that
//! told while the word is on its way, the core would believe that the follower has confirmed it as leader when the
//! word left, and answer reads by that. So such an answer waits for the answer to what carried the word.

use std::{collections::VecDeque, time::Duration};

use futures_util::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, Fuse, FuturesOrdered},
};
use openraft::{
    OptionalSend,
    base::BoxStream,
    errors::{NetworkError, RPCError},
    network::RPCOption,
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult},
};

use tokio::time::{Instant, sleep_until};

use super::{Peer, fitting};
use crate::types::TypeConfig;

/// Requests on their way to one follower at a time. Each has what was appended meanwhile, so with a slow disk at the
/// follower a few carry everything there is.
const DEPTH: usize = 8;

/// How long word of a commit waits for entries that take it along. It costs as much as they do, and under load they
/// follow at once. An idle follower applies this much later; a read that must be fresh brings the word itself.
const COMMIT_HOLD: Duration = Duration::from_millis(2);

type Append = AppendEntriesRequest<TypeConfig>;

type Appended = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Sends requests as they come, and gives their results in the same order, up to the first that failed.
pub(super) fn stream_append<'s, S>(
    peer: &'s mut Peer,
    requests: S,
    option: RPCOption,
) -> BoxFuture<'s, Result<BoxStream<'s, Appended>, RPCError<TypeConfig>>>
where
    S: Stream<Item = Append> + OptionalSend + Unpin + 'static,
{
    let peer = &*peer;
    let send = move |request: Append| {
        let option = option.clone();
        async move {
            let prev = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(prev);
            let response = peer.send_append(request, option).await?;
            Ok(response.into_stream_result(prev, last))
        }
        .boxed()
    };
    let results: BoxStream<'s, Appended> = Line::new(requests, send).results().boxed();
    async move { Ok(results) }.boxed()
}

/// Requests on their way to one follower, and what has come of them.
struct Line<'s, R, F> {
    requests: Fuse<R>,
    send: F,
    /// To be sent as soon as there is room.
    ready: VecDeque<Append>,
    /// Word of a commit, and until when it waits for entries to take it along.
    held: Option<(Append, Instant)>,
    on_way: FuturesOrdered<BoxFuture<'s, Appended>>,
    /// What was sent and not told yet. The oldest of them have their answers in `answers`.
    sent: VecDeque<Sent>,
    answers: VecDeque<Appended>,
    /// Whether anything came yet.
    begun: bool,
    /// Whether the follower has said that it has what precedes the next answer.
    matched: bool,
    /// Whether nothing that follows means anything.
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Whether it reaches further than the one before.
    entries: bool,
    /// Whether word of a commit came after it that reaches as far. The one sent next carries it.
    followed: bool,
}

impl<'s, R, F> Line<'s, R, F>
where
    R: Stream<Item = Append> + Unpin,
    F: FnMut(Append) -> BoxFuture<'s, Appended>,
{
    fn new(requests: R, send: F) -> Self {
        Self {
            requests: requests.fuse(),
            send,
            ready: VecDeque::new(),
            held: None,
            on_way: FuturesOrdered::new(),
            sent: VecDeque::new(),
            answers: VecDeque::new(),
            begun: false,
            matched: false,
            failed: false,
        }
    }

    fn results(self) -> impl Stream<Item = Appended> {
        stream::unfold(self, |mut line| async move { Some((line.next().await?, line)) })
    }

    /// The next result to be told; nothing after a failure, and once everything was sent and told.
    async fn next(&mut self) -> Option<Appended> {
        while !self.failed {
            if let Some(answer) = self.tell() {
                return Some(answer);
            }
            self.release();
            while self.on_way.len() < DEPTH
                && let Some(request) = self.ready.pop_front()
            {
                self.sent.push_back(Sent {
                    entries: !request.entries.is_empty(),
                    followed: false,
                });
                self.on_way.push_back((self.send)(request));
            }
            let room = self.on_way.len() < DEPTH;
            let due = self.held.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                Some(answer) = self.on_way.next(), if !self.on_way.is_empty() => {
                    if !matches!(answer, Ok(Ok(_))) {
                        self.failed = true;
                        return Some(self.sent_again(answer));
                    }
                    self.matched = true;
                    self.answers.push_back(answer);
                }
                request = self.requests.next(), if room && !self.requests.is_done() => {
                    if let Some(request) = request {
                        self.take_in(request);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if room && due.is_some() => {}
                else => return None,
            }
        }
        None
    }

    /// Lets the core send again what found the one before it missing, which is there by what the answer to that says.
    ///
    /// Told of a conflict, the core would take it for a follower that has lost what it had.
    fn sent_again(&self, answer: Appended) -> Appended {
        match answer {
            Ok(Err(StreamAppendError::Conflict(_))) if self.matched => {
                let cause = "the request has overtaken the one before it";
                Err(NetworkError::from_string(cause).into())
            }
            answer => answer,
        }
    }

    /// The oldest answer that was not told, once no request that the core takes it for is unanswered.
    fn tell(&mut self) -> Option<Appended> {
        let mut needed = 0;
        while self.sent.get(needed).is_some_and(|sent| sent.followed) {
            needed += 1;
            // Not sent yet: the word is held.
            if self.sent.get(needed)?.entries {
                break;
            }
        }
        if self.answers.len() <= needed {
            return None;
        }
        self.sent.pop_front();
        self.answers.pop_front()
    }

    /// Word of a commit is held, except for the first request: that asks where the logs match.
    fn take_in(&mut self, request: Append) {
        let word = request.entries.is_empty();
        if word && let Some(before) = self.sent.back_mut() {
            before.followed = true;
        }
        let held = self.held.take();
        if word && self.begun {
            let until = held.map_or_else(|| Instant::now() + COMMIT_HOLD, |(_, until)| until);
            self.held = Some((request, until));
        } else {
            // Entries carry the later commit.
            self.ready.extend(pieces(request));
        }
        self.begun = true;
    }

    /// Sends word of a commit that has waited long enough, for which nothing can come any more, or without which
    /// an answer that may commit more could not be told.
    fn release(&mut self) {
        let Some((word, until)) = &self.held else { return };
        let answers_wait = self.on_way.is_empty() && !self.sent.is_empty();
        let commits_more = word.leader_commit < word.prev_log_id;
        let due = Instant::now() >= *until || self.requests.is_done() || (answers_wait && commits_more);
        if due && let Some((word, _)) = self.held.take() {
            self.ready.push_back(word);
        }
    }
}

/// One request as several that fit a frame each.
fn pieces(request: Append) -> Vec<Append> {
    if fitting(&request.entries) >= request.entries.len() {
        return vec![request];
    }
    let AppendEntriesRequest {
        vote,
        mut prev_log_id,
        leader_commit,
        mut entries,
    } = request;
    let mut pieces = Vec::new();
    while !entries.is_empty() {
        let rest = entries.split_off(fitting(&entries).min(entries.len()));
        let last = entries.last().map(|entry| entry.log_id);
        pieces.push(AppendEntriesRequest {
            vote,
            prev_log_id,
            leader_commit,
            entries,
        });
        prev_log_id = last;
        entries = rest;
    }
    pieces
}

#[cfg(test)]
mod tests;
