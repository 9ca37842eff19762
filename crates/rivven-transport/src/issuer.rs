//! Certificates renewed while the cluster runs: who issues them, and who asks in time.
//!
//! A member that holds the authority's key serves [`Renew`]; every member runs a [`Renewer`], which asks at
//! two thirds of its certificate's life and uses the answer without a restart. A member whose certificate
//! has expired reaches this method and no other, so a cluster that slept for too long still forms.

mod due;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use rivven_crypto::random_bytes;
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::{
    CallCtx, CallError, Caller, Class, Method, Rejection, Router, Transport,
    clock::WallClock,
    datagram::GossipKey,
    identity::{
        CERT_FILE, CertificateAuthority, CertificateName, IdentityError, IdentityWatch, MAX_REQUEST, Role,
        Roles, Subject, Validity,
    },
    join::{Admission, Join, TokenLedger},
    secret_file,
};

pub(crate) use due::remind;
pub use due::{remind_at, renew_at};

/// Life of a renewed certificate.
pub const ONLINE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Time after its end for which a certificate still reaches the renewal: a cluster may sleep for months, and
/// the key in an old backup shall not open it for ever.
pub const RENEWABLE_FOR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Time for one attempt to renew.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Bounds of the pause after all issuers failed; it doubles with each round.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// See [`MIN_PAUSE`].
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Bound of the pause while the certificate has expired: until it is renewed the node can do nothing else.
const EXPIRED_PAUSE: Duration = Duration::from_secs(5);

/// Longest sleep: calendar time may jump, so even a far date is looked at this often.
const RECHECK: Duration = Duration::from_secs(3600);

/// Asks an issuer for a new certificate in the caller's own name.
#[derive(Debug)]
pub struct Renew;

/// See [`Renew`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10, DER: proof that the caller holds the key.
    pub request: Vec<u8>,
}

/// See [`Renew`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewResponse {
    /// The certificate, PEM.
    pub certificate: String,
}

impl Method for Renew {
    const ID: u16 = 0x0001;
    const NAME: &'static str = "renew";
    const CLASS: Class = Class::Control;
    const MAX_REQUEST: usize = MAX_REQUEST + 16;
    const MAX_RESPONSE: usize = 16 << 10;
    const ROLES: Roles = Roles::of(&[Role::Node, Role::Observer]);
    const AFTER_EXPIRY: bool = true;
    type Request = RenewRequest;
    type Response = RenewResponse;
}

/// Renews the certificates of members, on one that holds the authority's key.
///
/// It certifies no other name and role than the caller's own, which the caller's certificate proves: an observer
/// stays one. A node that [`Transport::deny`] refuses cannot reach it. Operators and clients keep their
/// certificates by hand.
pub struct Issuer {
    authority: CertificateAuthority,
    life: Duration,
    admission: Option<Admission>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("authority", &self.authority)
            .field("life", &self.life)
            .field("admission", &self.admission)
            .finish()
    }
}

impl Issuer {
    /// An issuer that signs with `authority`, for [`ONLINE_LIFE`].
    #[must_use]
    pub const fn new(authority: CertificateAuthority) -> Self {
        Self {
            authority,
            life: ONLINE_LIFE,
            admission: None,
        }
    }

    /// Issues certificates that live for `life`: short enough to make a stolen key useless soon, several times
    /// the longest outage that no operator shall notice.
    #[must_use]
    pub const fn life(mut self, life: Duration) -> Self {
        self.life = life;
        self
    }

    /// Lets nodes join that show a token which `ledger` knows.
    ///
    /// They are told the authorities of `identity`, which is the one this node uses, and `gossip_key`.
    #[must_use]
    pub fn admit(
        mut self,
        ledger: Arc<dyn TokenLedger>,
        identity: IdentityWatch,
        gossip_key: Option<GossipKey>,
    ) -> Self {
        self.admission = Some(Admission {
            ledger,
            identity,
            gossip_key,
        });
        self
    }

    /// What join tokens name the authority by.
    #[must_use]
    pub const fn fingerprint(&self) -> [u8; 32] {
        self.authority.fingerprint()
    }

    /// Answers [`Renew`], and [`Join`] if nodes are [admitted](Self::admit), from this moment on. Clear or drop
    /// the router to stop.
    pub fn serve(self, router: &Router) {
        let issuer = Arc::new(self);
        if let Some(admission) = issuer.admission.clone() {
            let joining = Arc::clone(&issuer);
            router.register::<Join, _, _>(move |_, asked| {
                let (issuer, admission) = (Arc::clone(&joining), admission.clone());
                async move {
                    let life = Validity::from_now(issuer.life);
                    admission.admit(&issuer.authority, life, &asked).await
                }
            });
        }
        router.register::<Renew, _, _>(move |caller, asked| {
            let issuer = Arc::clone(&issuer);
            async move { issuer.renew(&caller, &asked) }
        });
    }

    fn renew(&self, caller: &Caller, asked: &RenewRequest) -> Result<RenewResponse, Rejection> {
        let node = caller.peer.node;
        let subject = match caller.role {
            Some(Role::Node) => Subject::Node(node),
            Some(Role::Observer) => Subject::Observer(node),
            Some(Role::Operator | Role::Client) | None => {
                let text = "only members have their certificates renewed";
                return Err(Rejection::new("role-not-allowed", text));
            }
        };
        let name = CertificateName {
            cluster: self.authority.cluster(),
            subject,
        };
        let certificate = self
            .authority
            .sign_request(&asked.request, name, Validity::from_now(self.life))
            .map_err(|error| Rejection::new(error.code(), error.to_string()))?;
        info!(node, "renewed a certificate");
        Ok(RenewResponse { certificate })
    }
}

/// Why a certificate was not renewed. The one in use stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// No issuer answered with a certificate. It is tried again.
    #[error("no issuer renewed the certificate; node {node} said last: {source}")]
    NoIssuer {
        /// The issuer asked last; 0 if none is known.
        node: NodeId,
        /// What it said.
        source: CallError,
    },
    /// Those who were asked answered, and none of them issues certificates.
    #[error("no member that could be asked issues certificates")]
    NobodyIssues,
    /// The answer is no certificate of this node, for instance because the issuer's authority is not in
    /// `ca.pem`. Compare the two.
    #[error("the renewed certificate is not usable: {0}")]
    Unusable(#[from] IdentityError),
}

impl RenewError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoIssuer { .. } => "renewal-failed",
            Self::NobodyIssues => "no-issuer",
            Self::Unusable(error) => error.code(),
        }
    }
}

/// Keeps one node's certificate from expiring.
pub struct Renewer {
    transport: Transport,
    identity: IdentityWatch,
    issuers: Box<dyn Fn() -> Vec<NodeId> + Send + Sync>,
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer")
            .field("transport", &self.transport)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Renewer {
    /// Renews `identity`, the one that `transport` uses, at any of the nodes that `issuers` names at the time;
    /// this node may be among them, and so may some that issue nothing.
    #[must_use]
    pub fn new(
        transport: Transport,
        identity: IdentityWatch,
        issuers: impl Fn() -> Vec<NodeId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            transport,
            identity,
            issuers: Box::new(issuers),
        }
    }

    /// Renews at two thirds of each certificate's life, or a little later so that nodes that were certified at
    /// once do not all come at once, for as long as it is polled.
    ///
    /// Cancel safety: dropping it leaves either the earlier certificate or the new one.
    pub async fn run(self) {
        let mut pause = MIN_PAUSE;
        let share = random_bytes().map_or(0, u16::from_be_bytes);
        loop {
            let validity = self.identity.current().validity();
            let left = due::attempt_at(validity, share).saturating_sub(now());
            if !left.is_zero() {
                sleep(left.min(RECHECK)).await;
                continue;
            }
            let Err(error) = self.renew().await else {
                pause = MIN_PAUSE;
                continue;
            };
            self.report(validity, &error);
            sleep(pause).await;
            let bound = if self.identity.current().is_expired() {
                EXPIRED_PAUSE
            } else {
                MAX_PAUSE
            };
            pause = pause.saturating_mul(2).min(bound);
        }
    }

    /// Says that nobody renewed, loudly only when it is late for it: see [`remind_at`].
    fn report(&self, validity: Validity, error: &RenewError) {
        let node_id = self.transport.local().node;
        if matches!(error, RenewError::NobodyIssues) && !self.identity.current().is_expired() {
            // Nobody ever will, perhaps: then the daily reminder tells what to do.
            debug!(node_id, %error, "this node's certificate is not renewed");
        } else if now() < remind_at(validity) {
            info!(node_id, %error, "cannot renew this node's certificate yet; trying again");
        } else {
            warn!(node_id, %error, "cannot renew this node's certificate; trying again");
        }
    }

    /// Renews at once. The key stays, so that only one file changes and a crash leaves a pair that fits.
    ///
    /// Files that an operator has replaced are not touched: they are used from this moment on, and the renewed
    /// certificate is not.
    ///
    /// # Errors
    /// [`RenewError`].
    pub async fn renew(&self) -> Result<(), RenewError> {
        let current = self.identity.current();
        let asked = RenewRequest {
            request: current.request()?,
        };
        let issuers = (self.issuers)();
        let mut failure = (!issuers.is_empty()).then_some(RenewError::NobodyIssues);
        for node in issuers {
            let ctx = CallCtx::timeout(ATTEMPT);
            match self.transport.call::<Renew>(node, &asked, ctx).await {
                Ok(answer) => return self.install(&answer.certificate),
                Err(CallError::Rejected(rejection)) if rejection.code == "unknown-method" => {}
                Err(source) => failure = Some(RenewError::NoIssuer { node, source }),
            }
        }
        Err(failure.unwrap_or_else(|| RenewError::NoIssuer {
            node: 0,
            source: CallError::NotSent {
                cause: "no member is known yet that could be asked".into(),
            },
        }))
    }

    fn install(&self, certificate: &str) -> Result<(), RenewError> {
        let current = self.identity.current();
        // Checked before it is written: a file that does not verify would stop the next start.
        let renewed = current.with_certificate(certificate)?;
        if let Some(dir) = renewed.dir() {
            // What an operator has put there meanwhile is newer, and its key another one.
            if !current.lies_in(dir)? {
                self.identity.reload()?;
                return Ok(());
            }
            let path = dir.join(CERT_FILE);
            if let Err(source) = secret_file::replace_text(&path, certificate) {
                return Err(IdentityError::Unwritable { path, source }.into());
            }
        }
        self.identity.replace(renewed)?;
        info!(
            node_id = self.transport.local().node,
            "this node's certificate is renewed"
        );
        Ok(())
    }
}

fn now() -> Duration {
    Duration::from_secs(WallClock::now().as_secs())
}
