//! Errors of the cluster as answers: which status, and what to do.

use hyper::StatusCode;
use rivven_cluster::{Outcome, PartitionError, ReadError, TransferError, WriteError};

use crate::error::ApiError;

/// What to do when the message does not say.
const WAIT: &str = "wait until /readyz passes and repeat, or ask another node";
const READ_FIRST: &str = "read what is there before repeating the change";

pub(super) fn write(error: &WriteError) -> ApiError {
    let status = match error {
        WriteError::Refused(refusal) if refusal.code.ends_with("too-large") => StatusCode::PAYLOAD_TOO_LARGE,
        WriteError::Refused(_) => StatusCode::BAD_REQUEST,
        WriteError::Partition(PartitionError::UnknownTopic) => StatusCode::NOT_FOUND,
        WriteError::Partition(PartitionError::TopicExists { .. } | PartitionError::NotEnoughNodes { .. }) => {
            StatusCode::CONFLICT
        }
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

pub(super) fn read(error: &ReadError) -> ApiError {
    answer(
        StatusCode::SERVICE_UNAVAILABLE,
        error.code(),
        &error.to_string(),
        WAIT,
    )
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

pub(super) fn unknown_topic(name: &str) -> ApiError {
    ApiError::not_found(
        "unknown-topic",
        format!("there is no topic `{}` here", name.escape_default()),
        "create it, or wait until this node has heard of it",
    )
}

/// `message` is "cause; remedy", or a cause alone.
fn answer(status: StatusCode, code: &str, message: &str, remedy: &str) -> ApiError {
    let (cause, remedy) = message.split_once("; ").unwrap_or((message, remedy));
    ApiError::new(status, code, cause, remedy)
}
