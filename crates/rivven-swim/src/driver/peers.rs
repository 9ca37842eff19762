//! A file with the addresses of members, so that a cluster whose members all restart finds itself again
//! although addresses have changed since its configuration was written.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    string::String,
    sync::Arc,
    time::Duration,
    vec::Vec,
};

use rivven_transport::TaskGroup;
use tracing::{debug, warn};

use super::Shared;
use crate::MemberState;

/// First line of the file.
const HEADER: &str = "rivven gossip peers 0";

/// Most addresses in the file. A few would do; these outlive most changes.
pub(super) const MAX_PEERS: usize = 32;

/// How often the file is brought up to date.
const INTERVAL: Duration = Duration::from_secs(10);

/// The addresses in the file. It is only a help: without it, or damaged, there are none.
pub(super) fn load(path: &Path) -> Vec<SocketAddr> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).unwrap_or_else(|| {
            warn!(path = %path.display(), "the file of gossip peers is damaged and left out");
            Vec::new()
        }),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "the file of gossip peers cannot be read and is left out");
            }
            Vec::new()
        }
    }
}

fn parse(text: &str) -> Option<Vec<SocketAddr>> {
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return None;
    }
    lines.take(MAX_PEERS).map(|line| line.parse().ok()).collect()
}

fn print(peers: &BTreeSet<SocketAddr>) -> String {
    let mut text = String::from(HEADER);
    for peer in peers {
        text.push('\n');
        text.push_str(&std::format!("{peer}"));
    }
    text.push('\n');
    text
}

/// Keeps the file up to date until the group ends.
pub(super) fn keep(tasks: &TaskGroup, shared: Arc<Shared>, path: PathBuf) {
    let group = tasks.clone();
    tasks.spawn(async move {
        let mut written = BTreeSet::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
            update(&group, &shared, &path, &mut written).await;
        }
    });
}

/// Writes the file if the members have changed since.
pub(super) async fn update(
    tasks: &TaskGroup,
    shared: &Shared,
    path: &Path,
    written: &mut BTreeSet<SocketAddr>,
) {
    let peers = live(shared);
    // A member that has lost all others had better remember them.
    if peers.is_empty() || peers == *written {
        return;
    }
    let (text, to) = (print(&peers), path.to_path_buf());
    match tasks.blocking(move || write(&to, &text)).await {
        Ok(Ok(())) => *written = peers,
        Ok(Err(error)) => {
            warn!(path = %path.display(), %error, "the file of gossip peers cannot be written");
        }
        Err(error) => debug!(%error, "writing the file of gossip peers was given up"),
    }
}

/// Addresses of live members: always the same ones of many, so that the file rarely changes.
fn live(shared: &Shared) -> BTreeSet<SocketAddr> {
    let swim = shared.swim();
    let me = swim.identity().node;
    let members = swim.members().into_iter();
    let alive = members.filter(|view| view.node != me && view.state == MemberState::Alive);
    alive.map(|view| view.addr).take(MAX_PEERS).collect()
}

/// Replaces the file as a whole. It need not be durable: an old one is nearly as good.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_left_out() {
        let peers: BTreeSet<SocketAddr> = ["10.0.0.1:7946", "[fe80::1]:7946"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let text = print(&peers);
        assert_eq!(parse(&text).unwrap().into_iter().collect::<BTreeSet<_>>(), peers);
        for damaged in ["", "other header\n10.0.0.1:7946\n", &text.replace("10.0", "ten")] {
            assert_eq!(parse(damaged), None, "{damaged}");
        }
        assert_eq!(load(Path::new("/nonexistent/peers")), []);
        let many: BTreeSet<SocketAddr> = (1..100).map(|port| ([10, 0, 0, 1], port).into()).collect();
        assert_eq!(parse(&print(&many)).unwrap().len(), MAX_PEERS);
    }
}
