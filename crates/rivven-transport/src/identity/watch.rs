//! An identity that is replaced while it is in use.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{CA_FILE, CERT_FILE, IdentityError, KEY_FILE, NodeIdentity};

/// Pause between two looks at the files of an identity in use.
///
/// Short against the life of a certificate, long against the cost of three `stat` calls.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// The identity a node uses at this moment. Cheap to clone; all clones are one.
///
/// Certificate, key and authorities can be replaced under a running transport: new handshakes use the new
/// ones, and connections that stand stay, unless their peer's certificate is no longer believed. To change
/// the authority, first let every `ca.pem` hold the old and the new one, then replace the certificates,
/// then take the old one out.
#[derive(Clone)]
pub struct IdentityWatch(Arc<Inner>);

struct Inner {
    current: watch::Sender<NodeIdentity>,
    looked: Mutex<Looked>,
}

/// What earlier looks at the files have found.
#[derive(Default)]
struct Looked {
    /// What the files looked like when they were last read with success.
    loaded: Option<Stamps>,
    /// The fault that was logged last, and what the files looked like then.
    told: Option<(Option<Stamps>, &'static str)>,
}

/// Time of change and length of `ca.pem`, `node.pem` and `node.key`.
type Stamps = [(SystemTime, u64); 3];

impl fmt::Debug for IdentityWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IdentityWatch")
            .field(&*self.0.current.borrow())
            .finish()
    }
}

impl From<NodeIdentity> for IdentityWatch {
    fn from(identity: NodeIdentity) -> Self {
        // No stamps yet: the files may have changed since they were read, and the first look tells.
        Self(Arc::new(Inner {
            current: watch::Sender::new(identity),
            looked: Mutex::default(),
        }))
    }
}

impl IdentityWatch {
    /// The identity in `tls_dir`, see [`NodeIdentity::load`].
    ///
    /// # Errors
    /// As [`NodeIdentity::load`].
    pub fn load(tls_dir: &Path) -> Result<Self, IdentityError> {
        NodeIdentity::load(tls_dir).map(Self::from)
    }

    /// The identity in use.
    #[must_use]
    pub fn current(&self) -> NodeIdentity {
        self.0.current.borrow().clone()
    }

    /// Tells of every replacement.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<NodeIdentity> {
        self.0.current.subscribe()
    }

    /// Uses `identity` from this moment on. `false` when it holds the certificates already in use.
    ///
    /// # Errors
    /// [`IdentityError::OtherNode`]: a running node keeps its cluster and id. Nothing was changed.
    pub fn replace(&self, identity: NodeIdentity) -> Result<bool, IdentityError> {
        let mut outcome = Ok(false);
        self.0.current.send_if_modified(|current| {
            if identity.name() != current.name() {
                outcome = Err(IdentityError::OtherNode {
                    ours: current.node(),
                    found: identity.node(),
                });
                return false;
            }
            let changed = !identity.same_certificates(current);
            if changed {
                *current = identity;
            }
            outcome = Ok(changed);
            changed
        });
        outcome
    }

    /// Reads the files again and uses what they hold. `false` when that is in use already, or when the
    /// identity did not come from files.
    ///
    /// Blocks on the file system.
    ///
    /// # Errors
    /// [`IdentityError`]; then the identity in use stays.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let current = self.current();
        let Some(dir) = current.dir() else {
            return Ok(false);
        };
        let loaded = current.read_again(dir)?;
        let changed = self.replace(loaded)?;
        if changed {
            info!(
                node_id = current.node(),
                "replaced certificates, the files have changed"
            );
        }
        Ok(changed)
    }

    /// Whether there are files to look at.
    pub(crate) fn has_files(&self) -> bool {
        self.0.current.borrow().dir().is_some()
    }

    /// [`Self::reload`] unless the files look as they did when they were last read with success.
    ///
    /// Files are replaced one after the other, so a look may find a certificate beside the key of the
    /// one before; the next look finds the rest. What is not usable is read again with every look, since what
    /// mends it need not change a file: its mode, the time of day, room for one more open file. A fault is
    /// logged once until the files or the fault change.
    pub(crate) fn look(&self) {
        let current = self.current();
        let Some(dir) = current.dir() else {
            return;
        };
        // What cannot be looked at cannot be loaded either, which says why.
        let stamps = stamps(dir).ok();
        if stamps.is_some() && self.looked().loaded == stamps {
            return;
        }
        let reloaded = self.reload();
        let mut looked = self.looked();
        match reloaded {
            // Taken before the files were read: a change since then shows at the next look.
            Ok(_) => {
                *looked = Looked {
                    loaded: stamps,
                    told: None,
                };
            }
            Err(error) => {
                let told = Some((stamps, error.code()));
                if looked.told != told {
                    looked.told = told;
                    warn!(%error, "the certificates on disk are not usable; those in use stay");
                }
            }
        }
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.0.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(dir: &Path) -> io::Result<Stamps> {
    let stamp = |file: &str| {
        let metadata = fs::metadata(dir.join(file))?;
        Ok::<_, io::Error>((metadata.modified()?, metadata.len()))
    };
    Ok([stamp(CA_FILE)?, stamp(CERT_FILE)?, stamp(KEY_FILE)?])
}
