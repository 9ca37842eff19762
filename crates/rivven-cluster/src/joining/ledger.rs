//! Who decides on join tokens: the replicated state, or before there is one this process.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use rivven_raft::Consistency;
use rivven_transport::join::{KeyHash, MemoryLedger, TokenId, TokenLedger, TokenRefusal};
use rivven_types::NodeId;

use crate::{
    clock,
    inner::Inner,
    state::{Op, OpResponse},
    tokens::TokenCommand,
};

/// How long a look at the state, and a command, may take; a joining node waits 10 s for its answer.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A token lives in one of two places, and is spent where it lives.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Those that were issued here before the cluster was founded, for founders to join with.
    early: MemoryLedger,
    inner: OnceLock<Weak<Inner>>,
}

impl Ledger {
    pub(crate) fn belongs_to(&self, inner: &Arc<Inner>) {
        // Set once, by the start of the node.
        let _ = self.inner.set(Arc::downgrade(inner));
    }

    /// Makes a token known to this process alone.
    pub(crate) fn issue_here(
        &self,
        token: TokenId,
        node: NodeId,
        expires_s: u64,
    ) -> Result<(), TokenRefusal> {
        self.early.issue(token, node, expires_s)
    }
}

impl TokenLedger for Ledger {
    fn consume(&self, token: TokenId, node: NodeId, key: KeyHash) -> BoxFuture<'_, Result<(), TokenRefusal>> {
        if self.early.contains(token) {
            return self.early.consume(token, node, key);
        }
        let inner = self.inner.get().and_then(Weak::upgrade);
        async move {
            let inner = inner.ok_or_else(|| unavailable(&"this node is stopping"))?;
            replicated(&inner, token, node, key).await
        }
        .boxed()
    }
}

async fn replicated(inner: &Inner, token: TokenId, node: NodeId, key: KeyHash) -> Result<(), TokenRefusal> {
    let now_s = clock::unix_ms() / 1_000;
    // Looked at before anything is proposed, so that wrong tokens leave no mark in the log.
    let check = async |consistency| {
        let seen = inner.read(consistency, TIMEOUT, |state| {
            state.tokens.check(token, node, key, now_s)
        });
        seen.await
            .map(|read| read.value)
            .map_err(|error| unavailable(&error))
    };
    match check(Consistency::Stale).await? {
        // This node may not have heard of it yet.
        Err(TokenRefusal::Unknown) => check(Consistency::Linearizable).await??,
        seen => seen?,
    }
    let command = TokenCommand::Spend {
        token,
        node,
        key,
        now_s,
    };
    match inner.propose(Op::Tokens(command), TIMEOUT).await {
        Ok(OpResponse::Tokens(spent)) => spent,
        Ok(other @ (OpResponse::Kv(_) | OpResponse::Partitions(_))) => {
            Err(unavailable(&format_args!("{other:?}")))
        }
        // It may be spent, and then on this key: asking again finds out.
        Err(error) => Err(unavailable(&error)),
    }
}

fn unavailable(cause: &dyn std::fmt::Display) -> TokenRefusal {
    TokenRefusal::Unavailable {
        cause: cause.to_string(),
    }
}
