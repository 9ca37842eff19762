//! A backup as it comes over the admin API.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{HeaderMap, Method, body::Incoming, header::CONTENT_LENGTH};
use rivven_admin::{ErrorBody, RefoundingsBody, SNAPSHOT_CHECKSUM_HEADER, SNAPSHOT_INDEX_HEADER};
use tokio::time::timeout;

use super::{AdminClient, ClientError, Driver, MAX_ANSWER};

/// How long the next bytes of a backup may take.
const STALL_TIME: Duration = Duration::from_secs(60);

/// A backup that is being received.
pub struct SnapshotStream {
    client: AdminClient,
    body: Incoming,
    driver: Driver,
    received: u64,
    /// Bytes in all, as announced.
    pub total_bytes: u64,
    /// Index of the last log entry in it.
    pub last_index: u64,
    /// CRC32C of all bytes, in hexadecimal.
    pub checksum: String,
}

impl std::fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotStream")
            .field("received", &self.received)
            .field("total_bytes", &self.total_bytes)
            .finish_non_exhaustive()
    }
}

impl AdminClient {
    /// Begins to receive a backup, on a connection of its own. The client's timeout covers the wait until the
    /// first bytes come, which is how long the node takes to write its snapshot.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn snapshot(&self) -> Result<SnapshotStream, ClientError> {
        let mut client = self.renew(self.timeout);
        let deadline = tokio::time::Instant::now() + client.timeout;
        let (mut sender, mut driver) = client.connect(deadline).await?;
        let request = client.build(Method::GET, "/v1/snapshot", Bytes::new())?;
        let asked = async {
            tokio::select! {
                biased;
                response = sender.send_request(request) => response.map_err(|error| error.to_string()),
                _ = driver.as_mut() => Err("the connection was closed".to_owned()),
            }
        };
        let answer = tokio::time::timeout_at(deadline, asked).await;
        let response = answer.unwrap_or_else(|_| Err("timed out".to_owned()));
        let (head, body) = response.map_err(|cause| client.no_answer(cause))?.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, MAX_ANSWER).collect();
            let read = async {
                tokio::select! {
                    biased;
                    body = body => body.map_err(|error| error.to_string()),
                    _ = driver.as_mut() => Err("the connection was closed".to_owned()),
                }
            };
            let body = tokio::time::timeout_at(deadline, read).await;
            let body = body.unwrap_or_else(|_| Err("timed out".to_owned()));
            let body = body.map_err(|cause| client.no_answer(cause))?.to_bytes();
            let body: ErrorBody =
                serde_json::from_slice(&body).map_err(|error| client.not_understood(error))?;
            return Err(ClientError::Refused {
                status: head.status,
                body,
            });
        }
        let number = |name: &str| text(&head.headers, name).and_then(|text| text.parse().ok());
        let numbers = (number(CONTENT_LENGTH.as_str()), number(SNAPSHOT_INDEX_HEADER));
        let checksum = text(&head.headers, SNAPSHOT_CHECKSUM_HEADER).map(str::to_owned);
        let ((Some(total_bytes), Some(last_index)), Some(checksum)) = (numbers, checksum) else {
            return Err(client.not_understood("its headers do not describe a backup"));
        };
        client.timeout = STALL_TIME;
        Ok(SnapshotStream {
            client,
            body,
            driver,
            received: 0,
            total_bytes,
            last_index,
            checksum,
        })
    }

    /// When and why the cluster began anew from a backup or from one survivor.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn refoundings(&mut self) -> Result<RefoundingsBody, ClientError> {
        self.get_json("/v1/refoundings").await
    }

    fn no_answer(&self, cause: String) -> ClientError {
        ClientError::NoAnswer {
            address: self.address,
            cause,
        }
    }
}

impl SnapshotStream {
    /// The next bytes; `None` once all have come.
    ///
    /// # Errors
    /// The backup broke off, or nothing came for a minute.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while self.received < self.total_bytes {
            let frame = async {
                tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    // What it has read before it ended comes out of the body.
                    _ = self.driver.as_mut() => self.body.frame().await,
                }
            };
            let stalled = timeout(self.client.timeout, frame).await;
            let frame = stalled.map_err(|_| self.broke_off("nothing came for a minute"))?;
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.broke_off(&error.to_string())),
                None => return Err(self.broke_off("the connection was closed")),
            };
            if let Ok(bytes) = frame.into_data() {
                self.received = self.received.saturating_add(bytes.len() as u64);
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    fn broke_off(&self, cause: &str) -> ClientError {
        let (received, total) = (self.received, self.total_bytes);
        self.client.no_answer(format!(
            "the backup broke off after {received} of {total} bytes: {cause}"
        ))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
