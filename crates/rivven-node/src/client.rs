//! A small client of the admin API: one kept connection, typed answers, honest failures.

mod features;
mod member;
mod partitions;
mod snapshot;

use std::{fmt, net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    client::conn::http1::{Connection, SendRequest, handshake},
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rivven_admin::{
    APPLIED_INDEX_HEADER, ChangedBody, ErrorBody, GossipKeysBody, JoinTokenBody, MakeJoinTokenBody,
    MemberChangedBody, MemberPlanBody, MembersBody, MembershipBody, REVISION_HEADER, StatusBody,
    TransferBody,
};
use rivven_cluster::NodeId;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

pub use self::{
    member::{MemberAction, MemberAsk},
    snapshot::SnapshotStream,
};

/// Longest answer that is read.
const MAX_ANSWER: usize = 64 << 20;
/// How long a request may take unless the client is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request has no useful answer. [`ClientError::may_have_happened`] says what that means.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request was not sent. Nothing happened; ask another node.
    #[error("cannot reach {address}: {cause}")]
    Unreachable {
        /// The server.
        address: SocketAddr,
        /// What prevented it.
        cause: String,
    },
    /// The request was sent and no answer came. It may have happened.
    #[error("no answer from {address}: {cause}")]
    NoAnswer {
        /// The server.
        address: SocketAddr,
        /// How the wait ended.
        cause: String,
    },
    /// The server answered with an error. The body names code, cause and remedy.
    #[error("{} ({})", .body.message, .body.code)]
    Refused {
        /// Status of the answer; 504 alone means that the request may have happened.
        status: StatusCode,
        /// What the server said.
        body: ErrorBody,
    },
    /// The server answered with something this client does not understand.
    #[error("the answer of {address} was not understood: {cause}")]
    NotUnderstood {
        /// The server.
        address: SocketAddr,
        /// What was wrong with it.
        cause: String,
    },
}

impl ClientError {
    /// Whether a change may have happened in spite of the error.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable { .. } => false,
            Self::NoAnswer { .. } | Self::NotUnderstood { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "node-unreachable",
            Self::NoAnswer { .. } => "no-answer",
            Self::Refused { body, .. } => &body.code,
            Self::NotUnderstood { .. } => "answer-not-understood",
        }
    }
}

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Sees every write acknowledged before it.
    Linearizable,
    /// What the asked node has applied.
    Stale,
}

/// A value, and which write made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// Revision of the write.
    pub revision: u64,
    /// Log index the answering node had applied.
    pub applied_index: u64,
}

type Driver = Pin<Box<Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

/// A client of one node's admin API.
///
/// Requests on one client run one after the other, on one connection that is opened when needed.
/// Dropping a request's future closes the connection.
pub struct AdminClient {
    address: SocketAddr,
    token: Option<String>,
    timeout: Duration,
    link: Option<(SendRequest<Full<Bytes>>, Driver)>,
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminClient")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl AdminClient {
    /// A client of the node whose admin API listens on `address`. Opens nothing yet.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            token: None,
            timeout: DEFAULT_TIMEOUT,
            link: None,
        }
    }

    /// Presents `token` with every request.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Gives up on a request after `timeout`. The default is ten seconds.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A client of the same node with a connection of its own.
    #[must_use]
    pub fn renew(&self, timeout: Duration) -> Self {
        Self {
            address: self.address,
            token: self.token.clone(),
            timeout,
            link: None,
        }
    }

    /// What the node knows of itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&mut self) -> Result<StatusBody, ClientError> {
        self.get_json("/v1/status").await
    }

    /// The members the node knows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn members(&mut self) -> Result<MembersBody, ClientError> {
        self.get_json("/v1/members").await
    }

    /// Who belongs to the cluster and who votes, as the Raft leader sees it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn membership(&mut self) -> Result<MembershipBody, ClientError> {
        self.get_json("/v1/membership").await
    }

    /// What a change of who belongs to the cluster would bring with it. Changes nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn plan_member(&mut self, ask: &MemberAsk) -> Result<MemberPlanBody, ClientError> {
        let (method, path) = ask.request(true);
        self.json(method, &path, Bytes::new()).await
    }

    /// Changes who belongs to the cluster. Give the client more time than the change is waited for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change_member(&mut self, ask: &MemberAsk) -> Result<MemberChangedBody, ClientError> {
        let (method, path) = ask.request(false);
        self.json(method, &path, Bytes::new()).await
    }

    /// Has a token made with which `node` can join, good for `life`; the server's default when left out.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn join_token(
        &mut self,
        node: NodeId,
        life: Option<Duration>,
    ) -> Result<JoinTokenBody, ClientError> {
        let life_s = life.map(|life| life.as_secs());
        let body = encode(&MakeJoinTokenBody { node, life_s });
        self.json(Method::POST, "/v1/join-tokens", body).await
    }

    /// Has the keys that seal gossip replaced; the answer names the key that every member is being given.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn rotate_gossip_keys(&mut self) -> Result<GossipKeysBody, ClientError> {
        self.json(Method::POST, "/v1/gossip-keys", Bytes::new()).await
    }

    /// Asks node `to` to lead the Raft group.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn transfer_leader(&mut self, to: NodeId) -> Result<TransferBody, ClientError> {
        let path = format!("/v1/leader/transfer?to={to}");
        self.json(Method::POST, &path, Bytes::new()).await
    }

    /// Writes `value` at `key`. The key must be fit for a path; it is not encoded.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&mut self, key: &str, value: Bytes) -> Result<ChangedBody, ClientError> {
        self.json(Method::PUT, &format!("/v1/kv/{key}"), value).await
    }

    /// Reads `key`; `None` when nothing is there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&mut self, key: &str, level: ReadLevel) -> Result<Option<Found>, ClientError> {
        let level = match level {
            ReadLevel::Linearizable => "linearizable",
            ReadLevel::Stale => "stale",
        };
        let path = format!("/v1/kv/{key}?consistency={level}");
        match self.request(Method::GET, &path, Bytes::new()).await {
            Ok(answer) => Ok(Some(Found {
                revision: self.number(&answer, REVISION_HEADER)?,
                applied_index: self.number(&answer, APPLIED_INDEX_HEADER)?,
                value: answer.body,
            })),
            Err(ClientError::Refused { body, .. }) if body.code == "key-not-found" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the node says it is ready to serve; a node that says no is not an error.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn is_ready(&mut self) -> Result<bool, ClientError> {
        let answer = self.exchange(Method::GET, "/readyz", Bytes::new()).await?;
        Ok(answer.status.is_success())
    }

    /// The text served at `path`, whatever its status.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn text(&mut self, path: &str) -> Result<(StatusCode, String), ClientError> {
        let answer = self.exchange(Method::GET, path, Bytes::new()).await?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    async fn get_json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = self.request(method, path, body).await?;
        serde_json::from_slice(&answer.body).map_err(|error| self.not_understood(error))
    }

    /// [`Self::exchange`], with every status that is not a success turned into an error.
    async fn request(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let answer = self.exchange(method, path, body).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let body = serde_json::from_slice(&answer.body).map_err(|error| self.not_understood(error))?;
        Err(ClientError::Refused {
            status: answer.status,
            body,
        })
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        // Taken out, so that a request that is dropped half way leaves no half-used connection behind.
        let link = self.link.take();
        let deadline = tokio::time::Instant::now() + self.timeout;
        let (mut sender, mut driver) = match link {
            Some((sender, driver)) if !sender.is_closed() => (sender, driver),
            _ => self.connect(deadline).await?,
        };
        let request = self.build(method, path, body)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|e| e.to_string())?.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        let driven = async {
            tokio::select! {
                biased;
                answer = exchange => answer,
                // The sender reports how the connection ended; here only the reading has to go on.
                _ = driver.as_mut() => Err("the connection was closed".to_owned()),
            }
        };
        let outcome = tokio::time::timeout_at(deadline, driven).await;
        let answer = outcome.unwrap_or_else(|_| Err("timed out".to_owned()));
        let answer = answer.map_err(|cause| ClientError::NoAnswer {
            address: self.address,
            cause,
        })?;
        self.link = Some((sender, driver));
        Ok(answer)
    }

    async fn connect(
        &self,
        deadline: tokio::time::Instant,
    ) -> Result<(SendRequest<Full<Bytes>>, Driver), ClientError> {
        let connect = async {
            let stream = TcpStream::connect(self.address)
                .await
                .map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())
        };
        let outcome = tokio::time::timeout_at(deadline, connect).await;
        let link = outcome.unwrap_or_else(|_| Err("timed out".to_owned()));
        let (sender, connection) = link.map_err(|cause| ClientError::Unreachable {
            address: self.address,
            cause,
        })?;
        Ok((sender, Box::pin(connection)))
    }

    fn build(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string());
        let request = match &self.token {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"));
                if let Ok(value) = &mut value {
                    value.set_sensitive(true);
                }
                request.header(AUTHORIZATION, value.unwrap_or(HeaderValue::from_static("")))
            }
            None => request,
        };
        request
            .body(Full::new(body))
            .map_err(|error| ClientError::Unreachable {
                address: self.address,
                cause: format!("`{path}` is not a path to ask for: {error}"),
            })
    }

    fn number(&self, answer: &Answer, header: &str) -> Result<u64, ClientError> {
        let value = answer.headers.get(header).and_then(|value| value.to_str().ok());
        value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| self.not_understood(format!("the header {header} is missing or not a number")))
    }

    fn not_understood(&self, cause: impl fmt::Display) -> ClientError {
        ClientError::NotUnderstood {
            address: self.address,
            cause: cause.to_string(),
        }
    }
}

/// Bodies are plain structs of text and numbers, which always encode; an empty body is refused by the
/// server with a clear error.
fn encode<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}
