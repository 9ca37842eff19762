//! Backups over HTTP.

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, header};
use rivven_admin::{
    MAX_BACKUPS, MAX_BODY_BYTES, RefoundingsBody, SNAPSHOT_CHECKSUM_HEADER, SNAPSHOT_INDEX_HEADER,
    WRITE_TIMEOUT, bind_admin,
};
use rivven_cluster::offline::verify_backup;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Api;

/// How long anything may take that is not to be measured.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn backups(api: &Api) {
    let stranger = Request::get("/v1/snapshot").header(header::HOST, "127.0.0.1:9640");
    let refused = api.send(stranger.body(Default::default()).unwrap()).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);

    let answer = api.ask(Method::GET, "/v1/snapshot", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let text = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        text(header::CONTENT_LENGTH.as_str()),
        answer.body.len().to_string()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &answer.body).unwrap();
    let report = verify_backup(file.path()).unwrap();
    assert_eq!(text(SNAPSHOT_CHECKSUM_HEADER), format!("{:08x}", report.crc32c));
    assert_eq!(text(SNAPSHOT_INDEX_HEADER), report.last.index.to_string());
    assert_eq!(report.cluster.to_string(), api.cluster.status().cluster_id);

    places(api, answer.body.len()).await;
    stalled(api).await;
    let none = api.ask(Method::GET, "/v1/refoundings", "").await;
    let none: RefoundingsBody = serde_json::from_slice(&none.body).unwrap();
    assert_eq!(none.refoundings, []);
    api.check_error(Method::POST, "/v1/snapshot", "", 405, "method-not-allowed")
        .await;
}

/// The body of a backup, of which nothing was read.
async fn unread_body(api: &Api) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> {
    let bearer = format!("Bearer {}", api.token.reveal());
    let request = Request::get("/v1/snapshot").header(header::AUTHORIZATION, bearer);
    let request = request.header(header::HOST, "127.0.0.1:9640");
    let answer = api
        .service
        .handle(request.body(Full::<Bytes>::default()).unwrap())
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body()
}

/// Each of the places is taken by whoever does not read, and is free again with the body, read or dropped.
async fn places(api: &Api, bytes: usize) {
    let mut unread = Vec::new();
    for _ in 0..MAX_BACKUPS {
        unread.push(unread_body(api).await);
    }
    let full = || api.check_error(Method::GET, "/v1/snapshot", "", 503, "too-many-backups");
    full().await;
    let read = unread.pop().unwrap().collect().await.unwrap().to_bytes();
    assert_eq!(read.len(), bytes);
    // One that was read to its end has freed its place, another one takes it, and dropped ones free theirs.
    unread.push(unread_body(api).await);
    full().await;
    drop(unread);
    tokio::task::yield_now().await;
    for _ in 0..MAX_BACKUPS {
        let again = api.ask(Method::GET, "/v1/snapshot", "").await;
        assert_eq!((again.status, again.body.len()), (StatusCode::OK, bytes));
    }
}

/// Begins a backup over TCP, on a connection that holds little; the head of the answer.
async fn begin(api: &Api, address: std::net::SocketAddr) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let token = api.token.reveal();
    let request = format!(
        "GET /v1/snapshot HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Clients that take nothing of a large backup keep the node from nothing but further backups, and that for a minute.
async fn stalled(api: &Api) {
    for key in 0..16_u8 {
        let path = format!("/v1/kv/large/{key}");
        let put = api.ask(Method::PUT, &path, vec![key; MAX_BODY_BYTES]);
        assert_eq!(put.await.status, StatusCode::OK);
    }
    let listener = bind_admin(([127, 0, 0, 1], 0).into(), false).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(api.service.clone().serve(listener, pending()));

    let mut stalled = Vec::new();
    for _ in 0..MAX_BACKUPS {
        let (stream, head) = begin(api, address).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stalled.push(stream);
    }
    let (mut refused, head) = begin(api, address).await;
    let mut body = String::new();
    refused.read_to_string(&mut body).await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 503") && body.contains(r#""code":"too-many-backups""#),
        "{head}{body}"
    );
    let put = api.ask(Method::PUT, "/v1/kv/meanwhile", "1").await;
    assert_eq!(put.status, StatusCode::OK);
    assert_eq!(api.ask(Method::GET, "/v1/kv/meanwhile", "").await.body, "1");

    // More than once, for a machine that is so busy that the buffers between the two are not full yet.
    let mut again = StatusCode::SERVICE_UNAVAILABLE;
    for _ in 0..20 {
        tokio::time::pause();
        tokio::time::advance(WRITE_TIMEOUT + Duration::from_secs(1)).await;
        tokio::time::resume();
        sleep(Duration::from_millis(50)).await;
        again = api.ask(Method::GET, "/v1/snapshot", "").await.status;
        if again == StatusCode::OK {
            break;
        }
    }
    assert_eq!(again, StatusCode::OK);
    for stream in &mut stalled {
        let mut rest = Vec::new();
        // Cut in the middle, and seen as such by whoever counts.
        let end = timeout(LIMIT, stream.read_to_end(&mut rest)).await;
        assert!(
            end.is_ok() && rest.len() < 16 * MAX_BODY_BYTES,
            "{} bytes",
            rest.len()
        );
    }
}
