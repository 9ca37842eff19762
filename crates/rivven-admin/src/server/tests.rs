//! Tests of accepting and keeping connections.

use std::{future::pending, io};

use hyper::service::service_fn;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};

/// A server that answers every request with `ok`, and its address.
async fn start(replaces_oldest: bool, connections: &mut JoinSet<()>) -> SocketAddr {
    let listener = bind_health(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok")).boxed_unsync()))
    });
    let patience = Patience {
        headers: HEADER_TIMEOUT,
        replaces_oldest,
    };
    connections.spawn(serve(listener, service, patience, pending()));
    address
}

async fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn those_who_ask_nothing_keep_nobody_from_the_health_endpoints() {
    let mut servers = JoinSet::new();
    let address = start(true, &mut servers).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..3 {
        let answer = timeout(Duration::from_secs(10), ask(address)).await.unwrap();
        assert!(answer.unwrap().ends_with("ok"));
    }
    // The oldest has made room, and the newest has not.
    let mut byte = [0];
    let oldest = timeout(Duration::from_secs(10), silent[0].read(&mut byte)).await;
    assert_eq!(oldest.unwrap().unwrap_or_default(), 0);
    let newest = silent.last_mut().unwrap().read(&mut byte);
    assert!(timeout(Duration::from_millis(50), newest).await.is_err());
}

#[tokio::test]
async fn further_connections_of_the_admin_api_wait() {
    let mut servers = JoinSet::new();
    let address = start(false, &mut servers).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut waiting = Box::pin(ask(address));
    assert!(timeout(Duration::from_millis(100), &mut waiting).await.is_err());
    silent.pop();
    let answer = timeout(Duration::from_secs(10), waiting).await.unwrap();
    assert!(answer.unwrap().ends_with("ok"));
}

/// Bytes of an answer that fits no buffer.
const LONG: usize = 1 << 20;

/// A client that has asked for a long answer, on a connection that holds little.
async fn asks_for_much(connections: &mut JoinSet<()>) -> DuplexStream {
    let (mut client, server) = tokio::io::duplex(16 << 10);
    let service = service_fn(|_| async {
        let body = Full::new(Bytes::from(vec![7; LONG])).boxed_unsync();
        Ok::<_, Infallible>(Response::new(body))
    });
    let (stopping, stopped) = watch::channel(false);
    let peer = (server, ([127, 0, 0, 1], 1).into());
    connections.spawn(async move {
        connection(peer, service, HEADER_TIMEOUT, stopped).await;
        drop(stopping);
    });
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    client
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_an_answer_is_cut() {
    let mut connections = JoinSet::new();
    let mut client = asks_for_much(&mut connections).await;
    let mut head = [0; 12];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
    assert!(connections.try_join_next().is_none(), "it has its time");
    let ended = timeout(2 * WRITE_TIMEOUT, connections.join_next()).await;
    assert!(ended.is_ok(), "the connection is kept for good");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < LONG, "{} bytes", rest.len());
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_little_of_an_answer_now_and_then_gets_all_of_it() {
    let mut connections = JoinSet::new();
    let mut client = asks_for_much(&mut connections).await;
    let mut answer = Vec::new();
    let mut piece = vec![0; 16 << 10];
    loop {
        sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
        match client.read(&mut piece).await.unwrap() {
            0 => break,
            taken => answer.extend_from_slice(&piece[..taken]),
        }
    }
    assert!(answer.ends_with(&vec![7; LONG]), "{} bytes", answer.len());
}
