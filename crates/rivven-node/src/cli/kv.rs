//! `rivven-node kv`: the keys of the cluster, by a program that is no member.

use std::{io::Read as _, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use rivven_admin::{ChangesBody, KeyBody};
use rivven_cluster::{
    Client, ClientConfig, ClientError, Consistency, KeyRange, Kv, KvEntry, KvEvent, KvUpdate, KvWatchError,
    Lifetime, MAX_VALUE_BYTES, PeerAddr, ReadError, Swap, WatchFrom, WriteError,
};
use rivven_transport::{Provider, identity::SanTemplate};

use super::{Failure, Output, block_on, failure::Blame, join, status};
use crate::signal::Stop;

/// Most keys read in one go.
const PAGE: usize = 1_000;

/// Characters of a value that a table shows.
const SHOWN: usize = 60;

/// Longest time that a command tries.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_600);

/// How long the session of a write may be unused, beside the time that the write may take.
const SESSION_MARGIN: Duration = Duration::from_secs(60);

/// Which cluster, and who asks.
#[derive(Clone, Debug, Args)]
pub(super) struct ReachArgs {
    /// Directory that `cert issue --client` or `--operator` wrote, with ca.pem, node.pem and node.key.
    #[arg(long, value_name = "DIR")]
    tls_dir: PathBuf,
    /// QUIC addresses of some of the nodes, separated by commas. They name the others.
    #[arg(
        long,
        value_name = "ADDR,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:9093"
    )]
    node: Vec<PeerAddr>,
    /// What `cert init` was told.
    #[arg(long, value_name = "URI", default_value_t)]
    name_template: SanTemplate,
    /// Which cryptography to use.
    #[arg(long, value_name = "NAME", default_value_t = Provider::default().name().to_owned())]
    tls_provider: String,
    /// How long to try: 1s to 1h.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum KvCommand {
    /// Write the value of a key to standard output, as it is.
    Get {
        /// The key.
        key: String,
        /// Ask any node, whose copy may lag, instead of the leader.
        #[arg(long)]
        stale: bool,
        /// Show revisions and lease too, as JSON with the value in base64.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Set a key. It is done once, whatever has to be repeated on the way.
    Put {
        /// The key.
        key: String,
        /// The value, or `-` to read it from standard input.
        value: String,
        /// Remove the key after this time.
        #[arg(long, value_name = "TIME", value_parser = join::life)]
        ttl: Option<Duration>,
        #[command(flatten)]
        only: OnlyArgs,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: String,
        /// Only if its last change was at this revision.
        #[arg(long, value_name = "REVISION")]
        if_revision: Option<u64>,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// List keys in order, with their values.
    List {
        /// What the keys begin with; left out: all.
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = PAGE)]
        limit: usize,
        /// As they were at this revision.
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
        /// One JSON object per line, with the value in base64.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Show each change as it happens, until Ctrl-C.
    Watch {
        /// What the keys begin with; left out: all.
        #[arg(default_value = "")]
        prefix: String,
        /// Begin with the changes of this revision, rather than with what changes from now on.
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
        /// One JSON object per revision, on a line of its own, with values in base64.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: ReachArgs,
    },
}

/// When a key may be set.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(super) struct OnlyArgs {
    /// Only if its last change was at this revision.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Only if there is no such key.
    #[arg(long)]
    if_absent: bool,
}

pub(super) fn run(command: KvCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        KvCommand::Get {
            key,
            stale,
            json,
            reach,
        } => {
            let consistency = if stale {
                Consistency::Stale
            } else {
                Consistency::Linearizable
            };
            let found = block_on(asked(&reach, async |kv| Ok(kv.get(&key, consistency).await?)))?;
            let entry = found.ok_or_else(|| no_such_key(&key))?;
            if json {
                out.line(as_json(&KeyBody::new(&key, &entry)));
            } else {
                out.value(&entry.value);
            }
            Ok(())
        }
        KvCommand::Put {
            key,
            value,
            ttl,
            only,
            reach,
        } => put(key, &value, (ttl, only), &reach, out),
        KvCommand::Delete {
            key,
            if_revision,
            reach,
        } => delete(key, if_revision, &reach, out),
        KvCommand::List {
            prefix,
            limit,
            revision,
            json,
            reach,
        } => list(&KeyRange::prefix(prefix), (limit, revision), json, &reach, out),
        KvCommand::Watch {
            prefix,
            from,
            json,
            reach,
        } => block_on(watch(KeyRange::prefix(prefix), from, json, &reach, out)),
    }
}

fn put(
    key: String,
    value: &str,
    (ttl, only): (Option<Duration>, OnlyArgs),
    reach: &ReachArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let value = value_of(value)?;
    let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let lifetime = ttl.map_or(Lifetime::Unlimited, |ttl| Lifetime::Ttl(millis(ttl)));
    let revision = block_on(once(reach, async |kv| {
        if only.if_revision.is_none() && !only.if_absent {
            return Ok(kv.put_for(&*key, value, lifetime).await?.revision);
        }
        let swap = kv.swap_for(&*key, only.if_revision, Some(value), lifetime);
        swapped(&key, swap.await?)
    }))?;
    out.line(format_args!("{key} is at revision {revision}"));
    Ok(())
}

fn delete(key: String, if_revision: Option<u64>, reach: &ReachArgs, out: &mut Output) -> Result<(), Failure> {
    let revision = block_on(once(reach, async |kv| match if_revision {
        Some(_) => swapped(&key, kv.swap(&*key, if_revision, None).await?),
        None => Ok(kv.delete(&*key).await?),
    }))?;
    out.line(format_args!("{key} is gone as of revision {revision}"));
    Ok(())
}

fn list(
    range: &KeyRange,
    (limit, revision): (usize, Option<u64>),
    json: bool,
    reach: &ReachArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let listing = block_on(asked(reach, async |kv| {
        Ok(kv
            .range(range, revision, limit, Consistency::Linearizable)
            .await?)
    }))?;
    if json {
        for (key, entry) in &listing.entries {
            out.line(as_json(&KeyBody::new(key, entry)));
        }
        return Ok(());
    }
    let mut table = status::table();
    table.set_header(["KEY", "VALUE", "REVISION", "VERSION"]);
    for (key, entry) in &listing.entries {
        table.add_row([
            printable(key),
            shown(&entry.value),
            entry.mod_revision.to_string(),
            entry.version.to_string(),
        ]);
    }
    out.line(table);
    out.line("");
    let (count, more) = (
        listing.entries.len(),
        if listing.more { "; there are more" } else { "" },
    );
    let keys = if count == 1 { "key" } else { "keys" };
    out.line(format_args!(
        "{count} {keys} at revision {}{more}",
        listing.revision
    ));
    Ok(())
}

async fn watch(
    range: KeyRange,
    from: Option<u64>,
    json: bool,
    reach: &ReachArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let client = connect(reach).await?;
    let kv = client.kv().with_timeout(reach.timeout);
    let from = match from {
        Some(revision) => revision,
        // Where the map stands, whatever it holds.
        None => {
            let now = kv.range(&range, None, 0, Consistency::Linearizable).await?;
            now.revision.saturating_add(1)
        }
    };
    let mut watch = kv.watch(range, WatchFrom::Revision(from))?;
    loop {
        let update = tokio::select! {
            update = watch.next() => update,
            _ = stop.requested() => break,
        };
        match update {
            Ok(KvUpdate::Changes { events }) if json => {
                ChangesBody::of(&events).for_each(|body| out.line(as_json(&body)));
            }
            Ok(KvUpdate::Changes { events }) => events.iter().for_each(|event| out.line(changed(event))),
            Ok(_) => {}
            Err(error @ KvWatchError::Lost { .. }) => eprintln!("{error}; trying on"),
            Err(error) => return Err(Failure::world(error.code(), &error)),
        }
    }
    client.shutdown().await;
    Ok(())
}

/// Has `ask` read the map.
async fn asked<T>(reach: &ReachArgs, ask: impl AsyncFnOnce(Kv) -> Result<T, Failure>) -> Result<T, Failure> {
    let client = connect(reach).await?;
    let result = ask(client.kv().with_timeout(reach.timeout)).await;
    client.shutdown().await;
    result
}

/// Has `write` change the map once: it is repeated in a session until its outcome is known.
async fn once<T>(reach: &ReachArgs, write: impl AsyncFnOnce(Kv) -> Result<T, Failure>) -> Result<T, Failure> {
    asked(reach, async |kv| {
        let session = kv.open_session(reach.timeout + SESSION_MARGIN).await?;
        let result = write(kv.clone().with_id(session, 1)).await;
        // It would end by itself.
        let _ = kv.close_session(session).await;
        result
    })
    .await
}

async fn connect(reach: &ReachArgs) -> Result<Client, Failure> {
    let mut config = ClientConfig::new(&reach.tls_dir, reach.node.iter().cloned());
    config.name_template = reach.name_template.clone();
    config.tls_provider.clone_from(&reach.tls_provider);
    config.connect_timeout = reach.timeout;
    Ok(Client::connect(config).await?)
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = join::life(text)?;
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(format!("`{text}` is not within 1s and 1h"));
    }
    Ok(timeout)
}

fn value_of(text: &str) -> Result<Bytes, Failure> {
    if text != "-" {
        return Ok(text.to_owned().into());
    }
    let mut value = Vec::new();
    // One byte more than may be is enough to be refused for it.
    let most = u64::try_from(MAX_VALUE_BYTES).unwrap_or(u64::MAX) + 1;
    std::io::stdin().take(most).read_to_end(&mut value)?;
    Ok(value.into())
}

fn swapped(key: &str, swap: Swap) -> Result<u64, Failure> {
    match swap {
        Swap::Done { revision, .. } => Ok(revision),
        Swap::Conflict { current: Some(at) } => Err(Failure::world(
            "key-changed",
            format_args!("{key} is at revision {at}, and nothing was changed; read it again, then repeat"),
        )),
        Swap::Conflict { current: None } => Err(no_such_key(key)),
    }
}

fn no_such_key(key: &str) -> Failure {
    let message = format!("there is no key {key}; `rivven-node kv list` shows which there are");
    Failure::world("key-not-found", message)
}

/// A key for people, on one line whatever is in it.
fn printable(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for char in key.chars() {
        if char.is_control() {
            text.extend(char.escape_unicode());
        } else {
            text.push(char);
        }
    }
    text
}

/// A value for people: text if it is some, and not too much of it.
fn shown(value: &[u8]) -> String {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.chars().any(char::is_control));
    match text {
        Some(text) if text.chars().count() <= SHOWN => text.to_owned(),
        Some(text) => {
            let begin: String = text.chars().take(SHOWN).collect();
            format!("{begin}… ({} bytes)", value.len())
        }
        None => format!("({} bytes)", value.len()),
    }
}

fn changed(event: &KvEvent) -> String {
    let key = printable(&event.key);
    let value = |entry: &KvEntry| format!("put {key} {}", shown(&entry.value));
    let what = event
        .entry
        .as_ref()
        .map_or_else(|| format!("delete {key}"), value);
    format!("{} {what}", event.revision)
}

fn as_json(body: &impl serde::Serialize) -> String {
    // Only a map with keys that are not text fails to serialize, and no body has one.
    serde_json::to_string(body).unwrap_or_default()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let blame = if error.is_config() {
            Blame::Usage
        } else {
            Blame::World
        };
        Self::new(blame, error.code(), error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::world(error.code(), &error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::world(error.code(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_text_where_they_are_text() {
        assert_eq!(shown(b"hello"), "hello");
        assert_eq!(shown(b"a\nb"), "(3 bytes)");
        assert_eq!(shown(&[0xff, 0]), "(2 bytes)");
        assert_eq!(shown("é".repeat(60).as_bytes()), "é".repeat(60));
        let long = shown("é".repeat(61).as_bytes());
        assert_eq!(long, format!("{}… (122 bytes)", "é".repeat(60)));
    }

    #[test]
    fn keys_that_would_move_the_cursor_are_shown_and_not_done() {
        assert_eq!(printable("jobs/é 1"), "jobs/é 1");
        assert_eq!(printable("a\n7 put b\u{1b}[2J"), "a\\u{a}7 put b\\u{1b}[2J");
    }

    #[test]
    fn a_timeout_has_bounds() {
        assert_eq!(timeout("1h"), Ok(MAX_TIMEOUT));
        for text in ["0s", "2h", "99999999999999d", "10"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_conflict_says_what_to_do() {
        let current = Some(7);
        let text = swapped("k", Swap::Conflict { current }).unwrap_err().to_string();
        assert!(
            text.starts_with("error[key-changed]: k is at revision 7"),
            "{text}"
        );
        let text = swapped("k", Swap::Conflict { current: None })
            .unwrap_err()
            .to_string();
        assert!(text.contains("help: `rivven-node kv list`"), "{text}");
    }
}
