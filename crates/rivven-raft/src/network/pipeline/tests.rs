//! Requests as they come, and what the core is told of their answers.

use bytes::Bytes;
use futures_util::future::join;
use openraft::{EntryPayload, errors::Unreachable};
use tokio::time::sleep;

use super::*;
use crate::types::{LogCommand, LogEntry, log_id, vote};

/// A request behind the entry at `prev`.
fn request(prev: u64, entries: usize, commit: u64) -> Append {
    let entry = |index| LogEntry {
        log_id: log_id(1, index),
        payload: EntryPayload::Blank,
    };
    AppendEntriesRequest {
        vote: vote(1, 1, true),
        prev_log_id: Some(log_id(1, prev)),
        entries: (prev + 1..).map(entry).take(entries).collect(),
        leader_commit: Some(log_id(1, commit)),
    }
}

/// When a request comes, in milliseconds; the request; when it is answered, or how it is not.
type Step = (u64, Append, Answer);

#[derive(Clone, Copy, Debug)]
enum Answer {
    At(u64),
    Conflict,
    Cut,
}

use Answer::{At, Conflict, Cut};

/// How a result that was told reads.
fn kind(result: &Appended) -> &'static str {
    match result {
        Ok(Ok(_)) => "success",
        Ok(Err(_)) => "conflict",
        Err(_) => "error",
    }
}

/// When each request was sent, by its commit, and when its answer was told.
async fn run(steps: Vec<Step>) -> (Vec<(u64, u64)>, Vec<(u64, &'static str)>) {
    let begin = Instant::now();
    let now = move || u64::try_from(begin.elapsed().as_millis()).unwrap();
    let commit = |request: &Append| request.leader_commit.map_or(0, |id| id.index);
    let answers: Vec<_> = steps
        .iter()
        .map(|(_, request, answer)| (commit(request), *answer))
        .collect();
    let (word, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let send = move |request: Append| {
        let number = commit(&request);
        word.send((number, now())).unwrap();
        let answer = answers.iter().find(|(other, _)| *other == number).unwrap().1;
        let prev = request.prev_log_id.unwrap();
        let last = request
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(request.prev_log_id);
        async move {
            match answer {
                At(answer) => {
                    sleep_until(begin + Duration::from_millis(answer)).await;
                    Ok(Ok(last))
                }
                Conflict => Ok(Err(StreamAppendError::Conflict(prev))),
                Cut => Err(RPCError::Unreachable(Unreachable::from_string("cut"))),
            }
        }
        .boxed()
    };
    let requests = stream::iter(steps).then(|(at, request, _)| async move {
        sleep_until(begin + Duration::from_millis(at)).await;
        request
    });
    // It stays open, as the core's does.
    let requests =
        requests.chain(stream::once(sleep(Duration::from_secs(1))).filter_map(|()| async { None }));
    let told = Line::new(Box::pin(requests), send)
        .results()
        .map(|result| (now(), kind(&result)))
        .collect();
    let sent = async {
        let mut all = Vec::new();
        while let Some(one) = sent.recv().await {
            all.push(one);
        }
        all
    };
    join(sent, told).await
}

#[tokio::test(start_paused = true)]
async fn word_of_a_commit_waits_for_entries_but_not_for_long() {
    let (sent, _) = run(vec![
        (0, request(3, 0, 1), At(1)),
        (5, request(3, 0, 2), At(6)),
        (6, request(3, 1, 3), At(7)),
        (8, request(4, 0, 4), At(9)),
        (9, request(4, 0, 5), At(11)),
        (19, request(4, 0, 6), At(22)),
    ])
    .await;
    // The first goes at once; 2 is left out for 3; 5 takes 4's place, and goes when nothing follows; so does 6.
    assert_eq!(sent, [(1, 0), (3, 6), (5, 10), (6, 21)]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_that_to_word_of_a_commit_that_reaches_as_far() {
    let check = async |steps: Vec<Step>, expected: &[(u64, &'static str)]| {
        let (sent, told) = run(steps).await;
        assert_eq!(told, expected, "sent {sent:?}");
    };
    // Word alone, which came while the entries were on their way.
    check(
        vec![(0, request(1, 1, 1), At(20)), (5, request(2, 0, 2), At(30))],
        &[(30, "success"), (30, "success")],
    )
    .await;
    // It is not held back when the answer may commit more than it tells of.
    check(
        vec![(0, request(1, 3, 1), At(20)), (19, request(4, 0, 2), At(20))],
        &[(20, "success"), (20, "success")],
    )
    .await;
    // Entries took it along; that more word came after those is theirs to wait for.
    check(
        vec![
            (0, request(1, 1, 1), At(20)),
            (9, request(2, 0, 2), Cut),
            (10, request(2, 2, 3), At(30)),
            (25, request(4, 0, 4), At(40)),
        ],
        &[(30, "success"), (40, "success"), (40, "success")],
    )
    .await;
    // Without an answer to the word, that to the entries tells too much.
    check(
        vec![(0, request(1, 1, 1), At(20)), (5, request(2, 0, 2), Cut)],
        &[(20, "error")],
    )
    .await;
    // Word that comes after the answer was told is nothing to it.
    check(
        vec![(0, request(1, 1, 1), At(20)), (21, request(2, 0, 2), At(30))],
        &[(20, "success"), (30, "success")],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_overtook_the_one_before_it_is_no_conflict() {
    let (_, told) = run(vec![
        (0, request(1, 1, 1), At(20)),
        (1, request(2, 1, 2), Conflict),
        (2, request(3, 1, 3), At(20)),
    ])
    .await;
    assert_eq!(told, [(20, "success"), (20, "error")]);
    let (_, told) = run(vec![
        (0, request(1, 1, 1), Conflict),
        (0, request(2, 1, 2), Conflict),
    ])
    .await;
    assert_eq!(told, [(0, "conflict")]);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_depth_is_on_its_way() {
    let many = (0..20).map(|number| (0, request(number, 1, number), At(10 * (number + 1))));
    let (sent, told) = run(many.collect()).await;
    let depth = DEPTH as u64;
    for (at, (number, sent)) in (0..).zip(sent) {
        assert_eq!(number, at);
        assert_eq!(sent, 10 * (at + 1_u64).saturating_sub(depth), "request {at}");
    }
    assert_eq!(told.len(), 20);
}

#[test]
fn a_request_too_large_for_a_frame_becomes_several_that_follow_one_another() {
    let entry = |index| LogEntry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(LogCommand {
            namespace: 1,
            body: Bytes::from(vec![0; 1 << 20]),
        }),
    };
    let check = |count: u64, expected: &[usize]| {
        let request = AppendEntriesRequest {
            vote: vote(1, 1, true),
            prev_log_id: Some(log_id(1, 4)),
            entries: (5..5 + count).map(entry).collect(),
            leader_commit: None,
        };
        let pieces = pieces(request);
        let lens: Vec<_> = pieces.iter().map(|piece| piece.entries.len()).collect();
        assert_eq!(lens, expected);
        let mut next = 5;
        for piece in pieces {
            assert_eq!(piece.prev_log_id, Some(log_id(1, next - 1)));
            for entry in piece.entries {
                assert_eq!(entry.log_id.index, next);
                next += 1;
            }
        }
    };
    check(0, &[0]);
    check(7, &[7]);
    check(16, &[7, 7, 2]);
}
