//! Join tokens in the replicated state: issued and spent in one order on all nodes.

use rivven_transport::join::{KeyHash, TokenBook, TokenId, TokenRefusal};
use rivven_types::NodeId;
use serde::{Deserialize, Serialize};

/// A change of the tokens. The time is that of the proposer: every node applies the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TokenCommand {
    Issue {
        token: TokenId,
        node: NodeId,
        expires_s: u64,
        now_s: u64,
    },
    Spend {
        token: TokenId,
        node: NodeId,
        key: KeyHash,
        now_s: u64,
    },
}

/// Applies `command`. A refusal has changed nothing that matters: at most, tokens that had ended are gone.
pub(crate) fn apply(book: &mut TokenBook, command: TokenCommand) -> Result<(), TokenRefusal> {
    match command {
        TokenCommand::Issue {
            token,
            node,
            expires_s,
            now_s,
        } => book.issue(token, node, expires_s, now_s),
        TokenCommand::Spend {
            token,
            node,
            key,
            now_s,
        } => book.spend(token, node, key, now_s),
    }
}
