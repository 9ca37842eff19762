//! A transport on its caller's runtime, alone in this process.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{error::Error, time::Duration};

use rivven_transport::{
    BootEpoch, CallCtx, Class, ClusterId, InstanceId, LocalIdentity, Method, NodeId, QuicTransport, Router,
    Transport,
    identity::{CertificateAuthority, NodeIdentity},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

struct Echo;

impl Method for Echo {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "echo";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    type Request = String;
    type Response = String;
}

fn start(authority: &CertificateAuthority, node: NodeId, port: u16) -> Result<Transport, Box<dyn Error>> {
    let issued = authority.issue(node)?;
    let identity = NodeIdentity::from_pem(authority.cert_pem(), issued.cert_pem(), issued.key_pem())?;
    let local = LocalIdentity {
        cluster: identity.cluster(),
        node,
        instance: InstanceId::from_bytes([1; 16]),
        boot_epoch: BootEpoch(1),
    };
    let router = Router::new();
    router.register::<Echo, _, _>(|_, text| async move { Ok(text) });
    Ok(QuicTransport::builder(identity, local)
        .bind(([127, 0, 0, 1], port).into())
        .router(router)
        .runtime(Handle::current())
        .start()?)
}

/// Names of this process's threads, where the operating system tells.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_transport_on_the_callers_runtime_starts_no_thread_and_frees_its_port() {
    let authority = CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap();
    let before = threads().len();
    let (one, two) = (start(&authority, 1, 0).unwrap(), start(&authority, 2, 0).unwrap());
    let port = two.local_addr().unwrap().port();
    for (from, to) in [(&one, &two), (&two, &one)] {
        from.set_address(to.local().node, to.local_addr().unwrap().into());
        let ctx = CallCtx::timeout(Duration::from_secs(10));
        let answer = from.call::<Echo>(to.local().node, &"hi".into(), ctx).await;
        assert_eq!(answer.unwrap(), "hi");
    }
    let names = threads();
    assert_eq!(names.len(), before, "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("rivven")), "{names:?}");
    two.shutdown(Duration::from_millis(100)).await;
    drop(two);
    // What held the socket is dropped when the runtime next looks at it.
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = start(&authority, 2, port) {
        assert!(Instant::now() < end, "{error}");
        sleep(Duration::from_millis(5)).await;
    }
}
