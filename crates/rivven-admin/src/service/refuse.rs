//! Errors of the cluster as answers: which status, and what to do.

use hyper::StatusCode;
use rivven_cluster::{
    JoinTokenError, KvReadError, MemberError, MemberRefusal, MembershipError, Outcome, PartitionError,
    ReadError, RingError, RotateError, TransferError, WriteError,
};

use crate::error::ApiError;

/// What to do when the message does not say.
const WAIT: &str = "wait until /readyz passes and repeat, or ask another node";
const READ_FIRST: &str = "read what is there before repeating the change";

pub(super) fn write(error: &WriteError) -> ApiError {
    let status = match error {
        WriteError::Refused(refusal) if refusal.code.ends_with("too-large") => StatusCode::PAYLOAD_TOO_LARGE,
        // What the state does not allow, as opposed to what can never be.
        WriteError::Refused(refusal) if refusal.code == "lease-not-found" => StatusCode::NOT_FOUND,
        WriteError::Refused(refusal)
            if [
                "too-many-leases",
                "lease-full",
                "too-many-sessions",
                "session-number-reused",
            ]
            .contains(&refusal.code.as_str()) =>
        {
            StatusCode::CONFLICT
        }
        WriteError::Refused(_) => StatusCode::BAD_REQUEST,
        WriteError::Partition(
            PartitionError::UnknownTopic
            | PartitionError::UnknownNode { .. }
            | PartitionError::UnknownPartition { .. }
            | PartitionError::UnknownRebalance { .. },
        ) => StatusCode::NOT_FOUND,
        WriteError::Partition(
            PartitionError::TopicExists { .. }
            | PartitionError::NotEnoughNodes { .. }
            | PartitionError::StalePlan { .. }
            | PartitionError::RebalanceUnderWay { .. }
            | PartitionError::RebalanceStatus { .. },
        ) => StatusCode::CONFLICT,
        WriteError::Partition(_) => StatusCode::BAD_REQUEST,
        error => match error.outcome() {
            Outcome::NotDone => StatusCode::SERVICE_UNAVAILABLE,
            Outcome::Unknown => StatusCode::GATEWAY_TIMEOUT,
        },
    };
    let remedy = if error.outcome() == Outcome::Unknown {
        READ_FIRST
    } else {
        WAIT
    };
    let message = match error {
        WriteError::Refused(refusal) => refusal.message.clone(),
        error => error.to_string(),
    };
    answer(status, error.code(), &message, remedy)
}

/// Opening, renewing and closing a session is harmless to repeat, so a session that is gone is just that.
pub(super) fn session(error: &WriteError) -> ApiError {
    match error {
        WriteError::SessionLost { .. } => ApiError::not_found(
            error.code(),
            "there is no such session: it has ended",
            "open a new one: POST /v1/sessions",
        ),
        error => write(error),
    }
}

pub(super) fn read(error: &ReadError) -> ApiError {
    let status = match error {
        ReadError::Revision(KvReadError::Compacted { .. }) => StatusCode::GONE,
        ReadError::Revision(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, error.code(), &error.to_string(), WAIT)
}

pub(super) fn transfer(error: &TransferError) -> ApiError {
    let status = match error.code() {
        "not-a-voter" => StatusCode::BAD_REQUEST,
        // The node that was asked may still take over.
        "transfer-timeout" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(
        status,
        error.code(),
        &error.to_string(),
        "look at /v1/status and repeat",
    )
}

pub(super) fn rotate(error: &RotateError) -> ApiError {
    // To repeat it makes one more key, and does no harm.
    let (status, remedy) = (StatusCode::SERVICE_UNAVAILABLE, "look at /v1/status and repeat");
    answer(status, error.code(), &error.to_string(), remedy)
}

pub(super) fn membership(error: &MembershipError) -> ApiError {
    let status = match error {
        MembershipError::Raft(MemberError::Refused(MemberRefusal::UnknownMember { .. })) => {
            StatusCode::NOT_FOUND
        }
        MembershipError::Raft(MemberError::Refused(MemberRefusal::Refused(_))) => StatusCode::BAD_REQUEST,
        // The membership as it is does not allow it.
        MembershipError::SoleReplica { .. } | MembershipError::Raft(MemberError::Refused(_)) => {
            StatusCode::CONFLICT
        }
        error => match error.outcome() {
            Outcome::NotDone => StatusCode::SERVICE_UNAVAILABLE,
            Outcome::Unknown => StatusCode::GATEWAY_TIMEOUT,
        },
    };
    let remedy = if error.outcome() == Outcome::Unknown {
        "look at /v1/membership before asking again"
    } else {
        WAIT
    };
    answer(status, error.code(), &error.to_string(), remedy)
}

pub(super) fn join_token(error: &JoinTokenError) -> ApiError {
    let status = match error {
        JoinTokenError::Write(error) => return write(error),
        JoinTokenError::Life { .. } | JoinTokenError::Make(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, error.code(), &error.to_string(), WAIT)
}

pub(super) fn unknown_topic(name: &str) -> ApiError {
    ApiError::not_found(
        "unknown-topic",
        format!("there is no topic `{}` here", name.escape_default()),
        "create it, or wait until this node has heard of it",
    )
}

pub(super) fn ring(error: &RingError) -> ApiError {
    answer(
        StatusCode::CONFLICT,
        error.code(),
        &error.to_string(),
        "use fewer virtual nodes",
    )
}

pub(super) fn unknown_partition(name: &str, partition: u32) -> ApiError {
    ApiError::not_found(
        "unknown-partition",
        format!("topic `{}` has no partition {partition}", name.escape_default()),
        "count from 0, and see GET /v1/topics",
    )
}

/// `message` is "cause; remedy", or a cause alone.
pub(super) fn answer(status: StatusCode, code: &str, message: &str, remedy: &str) -> ApiError {
    let (cause, remedy) = message.split_once("; ").unwrap_or((message, remedy));
    ApiError::new(status, code, cause, remedy)
}
