//! What a request that could not be served is answered with.

use std::convert::Infallible;

use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, Serialize};

/// The body every answer of the API has: whole, or made as it is read.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The JSON body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    pub code: String,
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// A request that is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
    /// The methods the path does accept; sent with status 405 (RFC 9110, section 15.5.6).
    pub(crate) allow: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let body = ErrorBody {
            code: code.to_owned(),
            message: message.into(),
            remedy: remedy.into(),
        };
        Self {
            status,
            body,
            allow: None,
        }
    }

    pub(crate) fn bad_request(code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, remedy)
    }

    pub(crate) fn not_found(code: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message, remedy)
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let message = "this path does not accept that method";
        let mut error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            message,
            format!("use one of: {allow}"),
        );
        error.allow = Some(allow);
        error
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!("the request body is longer than {limit} bytes"),
            "send less, or split the value over several keys",
        )
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = json(self.status, &self.body);
        if let Some(allow) = self.allow {
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// An answer with a JSON body, ending in a newline so that it reads well in a terminal.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            plain(status, "application/json", bytes)
        }
        // Only a map with keys that are not text fails to serialize, and no body here has one.
        Err(_) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            &br#"{"code":"internal","message":"the answer could not be encoded","remedy":"report this"}"#[..],
        ),
    }
}

/// An answer with `body` as it is.
pub(crate) fn plain(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
