//! Calls between real endpoints on loopback.

mod calls;
mod door;
mod handover;
mod identity;
mod load;
mod names;
mod pair;
mod providers;
mod raw;
mod restart;
mod roles;
mod rotation;
mod transfers;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rivven_types::{BootEpoch, ClusterId, InstanceId, NodeId};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    CallCtx, CallError, Class, Method, PeerIdentity, PeerStatus, Rejection,
    identity::{CertificateAuthority, IdentityWatch, NodeIdentity, NodeName},
};

/// Answers with the caller and the text.
struct Echo;

impl Method for Echo {
    const ID: u16 = 0x8000;
    const NAME: &'static str = "echo";
    const CLASS: Class = Class::Client;
    const MAX_REQUEST: usize = 1 << 20;
    const MAX_RESPONSE: usize = 2 << 20;
    type Request = String;
    type Response = (NodeId, String);
}

/// Sleeps for so many milliseconds; tells when it ends and whether it was cancelled.
struct Sleep;

impl Method for Sleep {
    const ID: u16 = 0x8001;
    const NAME: &'static str = "sleep";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 16;
    type Request = u64;
    type Response = ();
}

/// Fails in the way its request names.
struct Fail;

impl Method for Fail {
    const ID: u16 = 0x8002;
    const NAME: &'static str = "fail";
    const CLASS: Class = Class::Raft;
    const MAX_REQUEST: usize = 64;
    const MAX_RESPONSE: usize = 64;
    type Request = String;
    type Response = ();
}

/// Echo on the bulk connection.
struct BulkEcho;

impl Method for BulkEcho {
    const ID: u16 = 0x8003;
    const NAME: &'static str = "bulk-echo";
    const CLASS: Class = Class::Bulk;
    const MAX_REQUEST: usize = 1 << 20;
    const MAX_RESPONSE: usize = 1 << 20;
    type Request = Vec<u8>;
    type Response = Vec<u8>;
}

/// What became of the handlers of [`Sleep`].
#[derive(Clone, Default)]
struct Slept(Arc<Mutex<Vec<&'static str>>>);

impl Slept {
    fn push(&self, what: &'static str) {
        lock(&self.0).push(what);
    }

    async fn wait_for(&self, expected: &[&'static str]) {
        let end = Instant::now() + Duration::from_secs(5);
        while *lock(&self.0) != expected {
            assert!(Instant::now() < end, "{:?}, not {expected:?}", lock(&self.0));
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Says what happened to a handler that is dropped.
struct Witness(Slept, &'static str);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.push(self.1);
    }
}

fn router(slept: &Slept) -> Router {
    let router = Router::new();
    router.register::<Echo, _, _>(|caller, text| async move { Ok((caller.peer.node, text)) });
    router.register::<BulkEcho, _, _>(|_, bytes| async move { Ok(bytes) });
    let slept = slept.clone();
    router.register::<Sleep, _, _>(move |_, ms| {
        let slept = slept.clone();
        async move {
            slept.push("began");
            let mut witness = Witness(slept, "cancelled");
            sleep(Duration::from_millis(ms)).await;
            witness.1 = "ended";
            Ok(())
        }
    });
    router.register::<Fail, _, _>(|_, how| async move {
        assert_ne!(how, "panic");
        Err(Rejection::new("no-such-luck", how))
    });
    router
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(ClusterId::from_bytes([1; 16])).unwrap()
}

fn identity(ca: &CertificateAuthority, node: NodeId) -> NodeIdentity {
    let issued = ca.issue(node).unwrap();
    NodeIdentity::from_pem(ca.cert_pem(), issued.cert_pem(), issued.key_pem()).unwrap()
}

fn local(identity: &NodeIdentity, boot_epoch: u64) -> LocalIdentity {
    LocalIdentity {
        cluster: identity.cluster(),
        node: identity.node(),
        instance: InstanceId::from_bytes([u8::try_from(identity.node()).unwrap(); 16]),
        boot_epoch: BootEpoch(boot_epoch),
    }
}

/// A node that answers everything.
fn start(identity: NodeIdentity) -> Transport {
    let local = local(&identity, 1);
    start_with(identity, local, &Slept::default())
}

fn start_with(identity: impl Into<IdentityWatch>, local: LocalIdentity, slept: &Slept) -> Transport {
    QuicTransport::builder(identity, local)
        .router(router(slept))
        .start()
        .unwrap()
}

/// Tells `from` where `to` listens.
fn introduce(from: &Transport, to: &Transport) {
    from.set_address(to.local().node, to.local_addr().unwrap().into());
}

/// Two nodes of one cluster that know each other's address.
fn pair() -> (Transport, Transport) {
    let ca = authority();
    let (one, two) = (start(identity(&ca, 1)), start(identity(&ca, 2)));
    introduce(&one, &two);
    introduce(&two, &one);
    (one, two)
}

fn ctx(ms: u64) -> CallCtx {
    CallCtx::timeout(Duration::from_millis(ms))
}

async fn echo(from: &Transport, to: NodeId, ctx: CallCtx) -> Result<(NodeId, String), CallError> {
    from.call::<Echo>(to, &"hi".into(), ctx).await
}
