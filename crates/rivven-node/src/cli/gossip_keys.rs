//! `rivven-node gossip-keys rotate`: another key for the gossip of a running cluster.

use std::time::Duration;

use rivven_admin::StatusBody;
use tokio::time::{Instant, sleep};

use super::{Failure, Output, RotateArgs, block_on, join::admin_token};
use crate::client::AdminClient;

/// Pause between two looks at whether the key is in use.
const LOOK: Duration = Duration::from_millis(200);

/// Has a key made, and waits until the asked node seals with it.
pub(crate) fn rotate(args: &RotateArgs, out: &mut Output) -> Result<(), Failure> {
    let token = admin_token(&args.admin_token)?;
    block_on(async {
        let mut client = AdminClient::new(args.admin).with_token(token.reveal());
        let epoch = client.rotate_gossip_keys().await?.epoch;
        if args.wait.is_zero() {
            out.line(format_args!(
                "key {epoch} is on its way to every member; it is used once all that are alive have it"
            ));
            return Ok(());
        }
        let end = Instant::now() + args.wait;
        loop {
            let status = client.status().await?;
            if status.gossip_key_epoch >= Some(epoch) {
                out.line(format_args!(
                    "key {epoch} seals gossip; the one before opens nothing a minute from here on"
                ));
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(not_in_use(epoch, args.wait, &status));
            }
            sleep(LOOK).await;
        }
    })
}

/// What the node says that holds the change up, if it says anything.
fn not_in_use(epoch: u64, waited: Duration, status: &StatusBody) -> Failure {
    let problem = status
        .problems
        .iter()
        .find(|problem| problem.code == "gossip-keys-unacknowledged");
    let remedy = problem.map_or(
        "it is still being given to every member: look at `rivven-node status` later, and do not ask for another",
        |problem| &problem.message,
    );
    let message = format!("key {epoch} is not in use after {waited:?}; {remedy}");
    Failure::world("gossip-key-not-in-use", message)
}
