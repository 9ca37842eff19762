//! Requests that are part of a trace.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use hyper::body::{Body, Frame};
use rivven_cluster::TraceContext;

use super::*;

/// A body that notes for whom it is read. It is read where the request is carried out.
struct Noting {
    bytes: Option<Bytes>,
    read_for: Arc<Mutex<Vec<Option<TraceContext>>>>,
}

impl Body for Noting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.read_for.lock().unwrap().push(TraceContext::sampled());
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Every trace for which a write with this header is carried out.
async fn traces_of(api: &Api, traceparent: Option<&str>) -> Vec<Option<String>> {
    let read_for = Arc::new(Mutex::new(Vec::new()));
    let mut request = Request::builder()
        .method(Method::PUT)
        .uri("/v1/kv/traced")
        .header(header::HOST, "127.0.0.1:9640")
        .header(header::AUTHORIZATION, format!("Bearer {}", api.token.reveal()));
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let body = Noting {
        bytes: Some("v".into()),
        read_for: Arc::clone(&read_for),
    };
    let answer = api.service.handle(request.body(body).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let read_for = read_for.lock().unwrap();
    let text = |trace: &Option<TraceContext>| trace.as_ref().map(ToString::to_string);
    let mut traces: Vec<_> = read_for.iter().map(text).collect();
    traces.dedup();
    traces
}

/// What a request asks of other nodes is part of the trace that its header names, if that is sampled.
pub(crate) async fn follow(api: &Api) {
    let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(traces_of(api, Some(sampled)).await, [Some(sampled.into())]);
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    for header in [None, Some(unsampled), Some("nonsense")] {
        assert_eq!(traces_of(api, header).await, [None], "{header:?}");
    }
}
