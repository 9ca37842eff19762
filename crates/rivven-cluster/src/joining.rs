//! Certificates while the cluster runs: members that issue, nodes that join, renewal.

mod ledger;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use rivven_transport::{
    CallCtx, Class, Method, Rejection,
    datagram::GossipKey,
    identity::{CA_FILE, CertificateAuthority, IdentityError, NodeIdentity, read_key},
    issuer::{Issuer, RENEWABLE_FOR, Renewer},
    join::{JoinToken, MAX_ADDRESSES, MakeTokenError, TOKEN_LIFE, TokenRefusal, TokenSpec},
};
use rivven_types::{NodeId, PeerAddr};
use serde::{Deserialize, Serialize};

use crate::{
    Cluster, StartError, WriteError, clock,
    config::{CheckedConfig, Renewal},
    inner::Inner,
    kv::unexpected,
    state::{Op, OpResponse},
    status::Problem,
    tokens::TokenCommand,
};

pub(crate) use ledger::Ledger;

/// How long a member may take to say whether it issues.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long issuing a token may take.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Are you an issuer, of which authority, and where?
struct AskIssuer;

/// What an issuer says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssuerView {
    /// SHA-256 of its authority's certificate.
    authority: [u8; 32],
    address: PeerAddr,
}

impl Method for AskIssuer {
    const ID: u16 = 0x0204;
    const NAME: &'static str = "cluster.issuer";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = 16;
    const MAX_RESPONSE: usize = 512;
    type Request = ();
    type Response = IssuerView;
}

/// Why no join token was made. Nothing opens anything unless the error says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTokenError {
    /// No member that can be reached issues certificates. Let one do so.
    #[error(
        "no member that can be reached issues certificates; give one of them the authority's key with \
         `cluster.tls.issuer.ca_key`, or make certificates by hand with `rivven-node cert issue`"
    )]
    NoIssuer,
    /// The life asked for is out of range. Ask for another.
    #[error("a join token lives for 1 minute to 7 days, not {asked:?}; ask for a life in between")]
    Life {
        /// What was asked for.
        asked: Duration,
    },
    /// The node cannot be named by a token, or there was no randomness.
    #[error(transparent)]
    Make(#[from] MakeTokenError),
    /// This node knows no address at which joining nodes could reach it. Tell it one.
    #[error(
        "this node does not know how others reach it; set `cluster.advertise_address`, or ask after a peer \
         has connected"
    )]
    NoAddress,
    /// The ledger refused.
    #[error(transparent)]
    Refused(TokenRefusal),
    /// The cluster is not founded, and this node does not issue: only an issuer can let founders join.
    #[error(
        "the cluster is not founded yet ({cause}); ask the member that issues certificates itself, which can \
         let founders join"
    )]
    NotReady {
        /// What is waited for.
        cause: String,
    },
    /// The token could not be recorded. If it may have been, it is lost all the same: make another.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl JoinTokenError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NoIssuer => "no-issuer",
            Self::Life { .. } => "join-token-life",
            Self::Make(error) => error.code(),
            Self::NoAddress => "no-address",
            Self::Refused(refusal) => refusal.code(),
            Self::NotReady { .. } => "not-ready",
            Self::Write(error) => error.code(),
        }
    }
}

impl Cluster {
    /// A token with which `node` gets a certificate, once, within `life` from this moment.
    ///
    /// Some member must issue certificates (`cluster.tls.issuer.ca_key`). Once the cluster is founded any
    /// member can be asked, and the token is replicated; before, only an issuer can, and the token is good
    /// with that very process. A certificate makes nobody a voter: founders are those that `raft.peers` names.
    ///
    /// Cancel safety: a dropped future may leave a token that nobody knows, until it ends.
    ///
    /// # Errors
    /// [`JoinTokenError`].
    pub async fn join_token(&self, node: NodeId, life: Duration) -> Result<JoinToken, JoinTokenError> {
        if !(TOKEN_LIFE.0..=TOKEN_LIFE.1).contains(&life) {
            return Err(JoinTokenError::Life { asked: life });
        }
        let inner = self.inner();
        let founded = inner.is_initialized();
        let views = if founded {
            issuers(inner).await?
        } else {
            let own = own_view(inner).ok_or_else(|| JoinTokenError::NotReady {
                cause: inner.waiting_for(),
            })?;
            vec![own?]
        };
        let first = views.first().ok_or(JoinTokenError::NoIssuer)?;
        let authority = first.authority;
        let same = views.iter().filter(|view| view.authority == authority);
        let now_s = clock::unix_ms() / 1_000;
        let token = JoinToken::generate(TokenSpec {
            cluster: inner.local.cluster,
            authority,
            node,
            expires_s: now_s.saturating_add(life.as_secs()),
            addresses: same
                .map(|view| view.address.clone())
                .take(MAX_ADDRESSES)
                .collect(),
        })?;
        record(inner, &token, now_s, founded).await?;
        tracing::info!(node_id = inner.local.node, joins = node, token = %token.id(), "made a join token");
        Ok(token)
    }
}

/// Makes `token` known to whoever decides on it.
async fn record(inner: &Inner, token: &JoinToken, now_s: u64, founded: bool) -> Result<(), JoinTokenError> {
    let (id, node, expires_s) = (token.id(), token.node(), token.expires_s());
    if !founded {
        return inner
            .ledger
            .issue_here(id, node, expires_s)
            .map_err(JoinTokenError::Refused);
    }
    let command = TokenCommand::Issue {
        token: id,
        node,
        expires_s,
        now_s,
    };
    match inner.propose(Op::Tokens(command), ISSUE_TIMEOUT).await? {
        OpResponse::Tokens(issued) => issued.map_err(JoinTokenError::Refused),
        other @ (OpResponse::Kv(_) | OpResponse::Partitions(_)) => Err(unexpected(&other).into()),
    }
}

/// What this node says of itself if it issues.
fn own_view(inner: &Inner) -> Option<Result<IssuerView, JoinTokenError>> {
    let authority = *inner.issues.get()?;
    let address = inner.known_quic_addr().ok_or(JoinTokenError::NoAddress);
    Some(address.map(|address| IssuerView { authority, address }))
}

/// Every issuer that answers and that this node itself believes, this node first.
async fn issuers(inner: &Inner) -> Result<Vec<IssuerView>, JoinTokenError> {
    let others = known_nodes(inner)
        .into_iter()
        .filter(|node| *node != inner.local.node);
    let asked = others.map(|node| {
        let ctx = CallCtx::timeout(ASK_TIMEOUT);
        inner.transport.call::<AskIssuer>(node, &(), ctx)
    });
    let identity = inner.identity.current();
    // A token names its authority for good, so no other member's word decides which one that is.
    let others = join_all(asked)
        .await
        .into_iter()
        .flatten()
        .filter(|view| identity.believes(&view.authority));
    let own = own_view(inner);
    let views: Vec<IssuerView> = own.iter().flatten().cloned().chain(others).collect();
    match own {
        // That this node cannot say where it is matters only if nobody else issues.
        Some(Err(error)) if views.is_empty() => Err(error),
        _ => Ok(views),
    }
}

/// Everybody this node has heard of, itself included.
fn known_nodes(inner: &Inner) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::from([inner.local.node]);
    nodes.extend(inner.resolver.found());
    if let Some(founding) = inner.founders.accepted() {
        nodes.extend(founding.founders.keys());
    }
    nodes.extend(inner.swim.members().iter().map(|member| member.node));
    inner
        .published
        .read(|state| nodes.extend(state.map().nodes().map(|node| node.registration.node)));
    nodes
}

/// Who this node is, and what it issues with if it does.
pub(crate) fn load(config: &CheckedConfig) -> Result<(NodeIdentity, Option<Issuer>), StartError> {
    let identity = load_identity(config)?;
    if identity.node() != config.node_id {
        return Err(StartError::NodeIdMismatch {
            tls_dir: config.tls_dir.clone(),
            certificate: identity.node(),
            configured: config.node_id,
        });
    }
    let issuer = load_issuer(config, &identity)?;
    Ok((identity, issuer))
}

/// This node's identity. Its certificate may have expired where it can have it renewed.
fn load_identity(config: &CheckedConfig) -> Result<NodeIdentity, IdentityError> {
    match config.renewal {
        Renewal::Manual => NodeIdentity::load_as(&config.tls_dir, &config.name_template, &config.provider),
        Renewal::Automatic => {
            let identity =
                NodeIdentity::load_for_renewal(&config.tls_dir, &config.name_template, &config.provider)?;
            let ended = Duration::from_millis(clock::unix_ms()).saturating_sub(identity.validity().not_after);
            // Nobody would let it in: then it is better to say so at once. An issuer needs nobody.
            if ended > RENEWABLE_FOR && config.issuer.is_none() {
                return NodeIdentity::load_as(&config.tls_dir, &config.name_template, &config.provider);
            }
            Ok(identity)
        }
    }
}

/// The authority that this node issues with, if it does.
fn load_issuer(config: &CheckedConfig, identity: &NodeIdentity) -> Result<Option<Issuer>, IdentityError> {
    let Some(settings) = &config.issuer else {
        return Ok(None);
    };
    let key = read_key(&settings.ca_key)?;
    let named = |error| named(error, &config.tls_dir.join(CA_FILE), &settings.ca_key);
    let authority = CertificateAuthority::from_bundle(identity.authorities_pem(), &key).map_err(named)?;
    let authority = authority.with_template(config.name_template.clone());
    Ok(Some(Issuer::new(authority).life(settings.life)))
}

/// `error`, about the very files of this node.
fn named(error: IdentityError, ca: &Path, key_file: &Path) -> IdentityError {
    let is_ca = |path: &Path| path == Path::new(CA_FILE);
    match error {
        IdentityError::KeyMismatch { .. } => IdentityError::KeyMismatch {
            path: ca.to_path_buf(),
            key: key_file.to_path_buf(),
        },
        IdentityError::Malformed { path, cause } => IdentityError::Malformed {
            path: if is_ca(&path) {
                ca.to_path_buf()
            } else {
                key_file.to_path_buf()
            },
            cause,
        },
        other => other,
    }
}

/// Issues certificates, if this node is to, and keeps its own renewed.
///
/// Who joins is told `first_key`, if the cluster has one, and fetches the key in use over QUIC.
pub(crate) fn start(inner: &Arc<Inner>, issuer: Option<Issuer>, first_key: Option<GossipKey>) {
    inner.ledger.belongs_to(inner);
    if let Some(issuer) = issuer {
        let ledger = Arc::clone(&inner.ledger);
        // Set once, by the start of this node.
        let _ = inner.issues.set(issuer.fingerprint());
        issuer
            .admit(ledger, inner.identity.clone(), first_key)
            .serve(&inner.router);
        let weak = Arc::downgrade(inner);
        inner.router.register::<AskIssuer, _, _>(move |_, ()| {
            let view = weak.upgrade().and_then(|inner| own_view(&inner)?.ok());
            async move { view.ok_or_else(no_address) }
        });
    }
    if inner.config.renewal == Renewal::Automatic {
        let weak: Weak<Inner> = Arc::downgrade(inner);
        let known = move || {
            let inner = weak.upgrade();
            inner.map_or_else(Vec::new, |inner| known_nodes(&inner).into_iter().collect())
        };
        let renewer = Renewer::new(inner.transport.clone(), inner.identity.clone(), known);
        inner.tasks.spawn(renewer.run());
    }
}

fn no_address() -> Rejection {
    let error = JoinTokenError::NoAddress;
    Rejection::new(error.code(), error.to_string())
}

/// What an operator must know while this node's own certificate is of no use.
pub(crate) fn problem(inner: &Inner) -> Option<Problem> {
    inner.identity.current().is_expired().then(|| {
        let node = inner.local.node;
        let message = format!(
            "the certificate of this node has expired, and no issuer has renewed it yet; start a member with \
             `cluster.tls.issuer.ca_key`, or replace {} with a new one: `rivven-node cert issue --ca DIR \
             --node {node}`",
            inner.config.tls_dir.join("node.pem").display()
        );
        Problem::new("certificate-expired", message)
    })
}
