//! Who keeps count of join tokens, so that each is spent once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

use super::TokenId;
use crate::clock::WallClock;

/// Tokens that may be outstanding at a time; more are refused.
pub const MAX_TOKENS: usize = 1024;

/// Shortest and longest life of a token.
pub const TOKEN_LIFE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(7 * 24 * 3600));

/// A public key that asks to be certified, by its SHA-256.
pub type KeyHash = [u8; 32];

/// Why a token was not issued or not spent. Nothing was changed, unless the variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// No such token was issued, or it ended long ago. Have a new one made.
    #[error(
        "the join token is not known to the cluster; have a new one made with `rivven-node cert join-token`"
    )]
    Unknown,
    /// Its time is over. Have a new one made.
    #[error("the join token has expired; have a new one made with `rivven-node cert join-token`")]
    Expired,
    /// Another key was certified with it. If that was not this node, somebody else holds its certificate.
    #[error(
        "the join token was used already, with another key; if this node did not use it, somebody else did, \
         and holds a certificate in its name"
    )]
    Used,
    /// It was issued for another node. Use the token of this node.
    #[error("the join token was made for another node; use the one that was made for this node")]
    OtherNode,
    /// It would last longer than [`TOKEN_LIFE`] allows. Ask for a shorter life.
    #[error("a join token lives for 7 days at most; ask for a shorter life")]
    TooLong,
    /// Too many tokens are outstanding. Wait until some have ended.
    #[error("{MAX_TOKENS} join tokens are outstanding; wait until some have ended")]
    Full,
    /// The ledger cannot be reached. The token may be spent by this very key; asking again is safe.
    #[error("the join token cannot be checked at the moment: {cause}; try again")]
    Unavailable {
        /// What prevents it.
        cause: String,
    },
}

impl TokenRefusal {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "join-token-unknown",
            Self::Expired => "join-token-expired",
            Self::Used => "join-token-used",
            Self::OtherNode => "join-token-other-node",
            Self::TooLong => "join-token-life",
            Self::Full => "join-tokens-full",
            Self::Unavailable { .. } => UNAVAILABLE,
        }
    }
}

/// Code of a refusal that says nothing about the token.
pub(crate) const UNAVAILABLE: &str = "join-unavailable";

/// Keeps count of join tokens.
///
/// Wherever a token may be spent, one ledger decides: two that both know a token would let it be spent twice.
pub trait TokenLedger: Send + Sync + 'static {
    /// Spends the token `token` of `node` on `key`.
    ///
    /// Of all keys exactly one is granted a token; that one is granted it again until the token ends, so that
    /// a node whose answer was lost can ask again.
    ///
    /// Cancel safety: a dropped future may have spent the token on `key`.
    fn consume(&self, token: TokenId, node: NodeId, key: KeyHash) -> BoxFuture<'_, Result<(), TokenRefusal>>;
}

/// What a ledger keeps of its tokens: a value that changes only by what it is told, and so can be replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenBook {
    entries: BTreeMap<TokenId, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    node: NodeId,
    expires_s: u64,
    spent_on: Option<KeyHash>,
}

impl TokenBook {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token for `node` that ends at `expires_s`, and forgets those that have ended at `now_s`; both
    /// in seconds since the beginning of 1970.
    ///
    /// # Errors
    /// [`TokenRefusal::Full`], and those that had ended are forgotten all the same; [`TokenRefusal::TooLong`].
    pub fn issue(
        &mut self,
        token: TokenId,
        node: NodeId,
        expires_s: u64,
        now_s: u64,
    ) -> Result<(), TokenRefusal> {
        if expires_s > now_s.saturating_add(TOKEN_LIFE.1.as_secs()) {
            return Err(TokenRefusal::TooLong);
        }
        self.entries.retain(|_, entry| entry.expires_s > now_s);
        if self.entries.len() >= MAX_TOKENS {
            return Err(TokenRefusal::Full);
        }
        // The id is derived from 256 random bits: one that is there was issued by this very command before.
        self.entries.entry(token).or_insert(Entry {
            node,
            expires_s,
            spent_on: None,
        });
        Ok(())
    }

    /// Spends a token at `now_s`, see [`TokenLedger::consume`].
    ///
    /// # Errors
    /// [`TokenRefusal`], then nothing has changed.
    pub fn spend(
        &mut self,
        token: TokenId,
        node: NodeId,
        key: KeyHash,
        now_s: u64,
    ) -> Result<(), TokenRefusal> {
        let entry = self.entries.get_mut(&token).ok_or(TokenRefusal::Unknown)?;
        entry.check(node, key, now_s)?;
        entry.spent_on = Some(key);
        Ok(())
    }

    /// What [`Self::spend`] would answer.
    ///
    /// # Errors
    /// As [`Self::spend`].
    pub fn check(&self, token: TokenId, node: NodeId, key: KeyHash, now_s: u64) -> Result<(), TokenRefusal> {
        let entry = self.entries.get(&token).ok_or(TokenRefusal::Unknown)?;
        entry.check(node, key, now_s)
    }

    /// Whether the book knows `token`.
    #[must_use]
    pub fn contains(&self, token: TokenId) -> bool {
        self.entries.contains_key(&token)
    }

    /// Tokens kept, those that are spent or have ended included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no token is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn check(&self, node: NodeId, key: KeyHash, now_s: u64) -> Result<(), TokenRefusal> {
        if self.node != node {
            return Err(TokenRefusal::OtherNode);
        }
        if self.spent_on.is_some_and(|spent_on| spent_on != key) {
            return Err(TokenRefusal::Used);
        }
        if self.expires_s <= now_s {
            return Err(TokenRefusal::Expired);
        }
        Ok(())
    }
}

/// A ledger in one process, for an issuer that stands alone. What it knows ends with it, and no token is
/// good any more then.
#[derive(Default)]
pub struct MemoryLedger(Mutex<TokenBook>);

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|book| {
            f.debug_struct("MemoryLedger")
                .field("tokens", &book.len())
                .finish()
        })
    }
}

impl MemoryLedger {
    /// A ledger without tokens.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a token for `node` that ends at `expires_s`, in seconds since the beginning of 1970.
    ///
    /// # Errors
    /// [`TokenRefusal::Full`].
    pub fn issue(&self, token: TokenId, node: NodeId, expires_s: u64) -> Result<(), TokenRefusal> {
        self.with(|book| book.issue(token, node, expires_s, WallClock::now().as_secs()))
    }

    /// Whether the ledger knows `token`.
    #[must_use]
    pub fn contains(&self, token: TokenId) -> bool {
        self.with(|book| book.contains(token))
    }

    fn with<T>(&self, work: impl FnOnce(&mut TokenBook) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TokenLedger for MemoryLedger {
    fn consume(&self, token: TokenId, node: NodeId, key: KeyHash) -> BoxFuture<'_, Result<(), TokenRefusal>> {
        let spent = self.with(|book| book.spend(token, node, key, WallClock::now().as_secs()));
        async move { spent }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: TokenId = TokenId::from_bytes([1; 32]);

    #[test]
    fn a_token_is_for_one_node_one_key_and_its_time() {
        let mut book = TokenBook::new();
        let (mine, other) = ([7; 32], [8; 32]);
        assert_eq!(book.spend(TOKEN, 4, mine, 0), Err(TokenRefusal::Unknown));
        book.issue(TOKEN, 4, 100, 0).unwrap();
        assert_eq!(book.spend(TOKEN, 5, mine, 0), Err(TokenRefusal::OtherNode));
        assert_eq!(book.spend(TOKEN, 4, mine, 100), Err(TokenRefusal::Expired));
        assert_eq!(book.check(TOKEN, 4, mine, 99), Ok(()));
        assert_eq!(book.spend(TOKEN, 4, mine, 99), Ok(()));
        assert_eq!(book.spend(TOKEN, 4, other, 99), Err(TokenRefusal::Used));
        // Its answer may have been lost.
        assert_eq!(book.spend(TOKEN, 4, mine, 99), Ok(()));
        assert_eq!(book.spend(TOKEN, 4, mine, 100), Err(TokenRefusal::Expired));
        let week = TOKEN_LIFE.1.as_secs();
        assert_eq!(book.issue(TOKEN, 4, week + 1, 0), Err(TokenRefusal::TooLong));
        // Issuing it again, as a repeated command would, does not unspend it.
        book.issue(TOKEN, 4, 100, 0).unwrap();
        assert_eq!(book.spend(TOKEN, 4, other, 0), Err(TokenRefusal::Used));
    }

    #[test]
    fn outstanding_tokens_are_bounded_and_those_that_ended_make_room() {
        let mut book = TokenBook::new();
        let id = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            TokenId::from_bytes(bytes)
        };
        for n in 0..MAX_TOKENS {
            book.issue(id(n), 1, if n == 0 { 10 } else { 20 }, 0).unwrap();
        }
        assert_eq!(book.issue(TOKEN, 1, 20, 9), Err(TokenRefusal::Full));
        assert_eq!(book.issue(TOKEN, 1, 20, 10), Ok(()));
        assert_eq!(book.len(), MAX_TOKENS);
        assert!(!book.contains(id(0)) && book.contains(TOKEN) && !book.is_empty());
    }
}
