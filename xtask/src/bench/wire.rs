//! What the two ends say to each other: methods of the transport, and frames of the raw references.

use std::fmt;

use bytes::Bytes;
use rivven_transport::{
    BootEpoch, Class, InstanceId, LocalIdentity, Method, Router, Transport, identity::NodeIdentity,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of every response, whatever the request.
pub(super) const RESPONSE: usize = 32;

/// Largest encoded request: a chunk of 1 MiB and its length.
const MAX_BLOB: usize = (1 << 20) + 64;

/// Node id of the end that answers.
pub(super) const PEER: u64 = 2;

/// Bytes, encoded as such rather than one by one.
#[derive(Clone, Debug)]
pub(super) struct Blob(pub(super) Bytes);

impl Blob {
    pub(super) fn zeros(len: usize) -> Self {
        Self(vec![0; len].into())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

macro_rules! method {
    (
        $(#[$doc:meta])* $name:ident, $id:literal, $text:literal, $class:ident, $max_request:expr,
        $request:ty => $response:ty
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Method for $name {
            const ID: u16 = $id;
            const NAME: &'static str = $text;
            const CLASS: Class = Class::$class;
            const MAX_REQUEST: usize = $max_request;
            const MAX_RESPONSE: usize = 4096;
            type Request = $request;
            type Response = $response;
        }
    };
}

method!(
    /// Any request, a response of [`RESPONSE`] bytes.
    Call, 0x8000, "bench-call", Client, MAX_BLOB, Blob => Blob
);
method!(
    /// The same for heartbeats.
    Ping, 0x8001, "bench-ping", Control, 1 << 10, Blob => Blob
);
method!(
    /// The same on the bulk connection.
    Chunk, 0x8002, "bench-chunk", Bulk, MAX_BLOB, Blob => Blob
);
method!(
    /// What the answering process has used so far.
    Usage, 0x8003, "bench-usage", Control, 16, () => Used
);

/// The methods of the end that answers.
pub(super) fn router() -> Router {
    let router = Router::new();
    let answer = |_, _| async { Ok(Blob(Bytes::from_static(&[0; RESPONSE]))) };
    router.register::<Call, _, _>(answer);
    router.register::<Ping, _, _>(answer);
    router.register::<Chunk, _, _>(answer);
    super::transfer::register(&router);
    router.register::<Usage, _, _>(|_, ()| async { Ok(Used::now()) });
    router
}

/// Who a node of the benchmark is.
pub(super) fn local(identity: &NodeIdentity, boot_epoch: u64) -> LocalIdentity {
    let mut instance = [0; 16];
    instance[..8].copy_from_slice(&identity.node().to_be_bytes());
    LocalIdentity {
        cluster: identity.cluster(),
        node: identity.node(),
        instance: InstanceId::from_bytes(instance),
        boot_epoch: BootEpoch(boot_epoch),
    }
}

/// What a process has used, zero where the system does not say.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) cpu_ns: u64,
    pub(super) resident: u64,
    pub(super) sleeps: u64,
}

impl Used {
    pub(super) fn now() -> Self {
        Self {
            cpu_ns: super::usage::cpu_ns().unwrap_or(0),
            resident: super::usage::resident_bytes().unwrap_or(0),
            sleeps: super::usage::sleeps().unwrap_or(0),
        }
    }
}

/// What the answering process has used.
pub(super) async fn usage(transport: &Transport) -> anyhow::Result<Used> {
    let ctx = rivven_transport::CallCtx::timeout(std::time::Duration::from_secs(5));
    Ok(transport.call::<Usage>(PEER, &(), ctx).await?)
}
