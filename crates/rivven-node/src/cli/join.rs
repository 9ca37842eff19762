//! `rivven-node cert join-token` and `cert join`: a certificate without copying keys around.

use std::{
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use rivven_admin::AdminToken;
use rivven_cluster::join::{JoinError, JoinToken, MAX_TOKEN_TEXT, ParseTokenError, join};

use super::{Failure, JoinTokenArgs, Output, block_on};
use crate::client::AdminClient;

/// How long an issuer is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has a token made, and prints it alone on standard output.
pub(crate) fn token(args: &JoinTokenArgs, out: &mut Output) -> Result<(), Failure> {
    let admin_token = admin_token(&args.admin_token)?;
    let made = block_on(async {
        let mut client = AdminClient::new(args.admin).with_token(admin_token.reveal());
        Ok(client.join_token(args.node, Some(args.ttl)).await?)
    })?;
    out.line(&made.token);
    eprintln!(
        "token {} lets node {} get its certificate once, within {:?}; hand it over like a password",
        made.id, made.node, args.ttl
    );
    Ok(())
}

/// What a node's admin API wants to be shown before it changes anything.
pub(super) fn admin_token(path: &Path) -> Result<AdminToken, Failure> {
    AdminToken::load(path).map_err(|error| {
        let path = path.display();
        let message = format!("cannot use {path}: {error}; name the asked node's admin.token, as its owner");
        Failure::usage("admin-token-unusable", message)
    })
}

/// Spends a token.
pub(crate) fn run(text: &str, dir: &Path, out: &mut Output) -> Result<(), Failure> {
    let token = if text == "-" {
        let mut read = String::new();
        let longest = MAX_TOKEN_TEXT as u64 + 2;
        io::stdin().take(longest).read_to_string(&mut read)?;
        JoinToken::parse(&read)?
    } else {
        JoinToken::parse(text)?
    };
    block_on(async { Ok(join(&token, dir, PATIENCE).await?) })?;
    out.line(format_args!(
        "node {} of cluster {}: give it {} as --tls-dir, or copy it to <data_dir>/tls",
        token.node(),
        token.cluster(),
        dir.display()
    ));
    out.line(
        "started with addresses of members as `raft.peers` and an empty data directory, it joins the cluster, and \
         votes once a place is free; `rivven-node member list` shows it",
    );
    Ok(())
}

/// A time such as `90s`, `30m`, `1h` or `7d`.
pub(super) fn life(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write one such as 30m, 1h or 7d");
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 24 * 3_600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

impl From<ParseTokenError> for Failure {
    fn from(error: ParseTokenError) -> Self {
        Self::usage(error.code(), error)
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Identity(error) => error.into(),
            error => Self::world(error.code(), &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_and_a_unit() {
        let check = |text, seconds: Option<u64>| {
            assert_eq!(life(text).ok(), seconds.map(Duration::from_secs), "{text}");
        };
        check("90s", Some(90));
        check("30m", Some(1_800));
        check("1h", Some(3_600));
        check("7d", Some(604_800));
        for wrong in [
            "",
            "h",
            "1",
            "-1h",
            "1 h",
            "1é",
            "99999999999999999999d",
            "999999999999999999d",
        ] {
            check(wrong, None);
        }
    }
}
