//! Real processes, of which a third is stopped for a while.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails loudly, its members talk to it over their output, and real processes need real time"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rivven_swim::{BootEpoch, InstanceId, MemberEvent, SwimConfig, SwimNode};
use rivven_transport::{ClusterId, LocalIdentity, datagram::GossipKey};

/// Members; the first third is stopped.
const COUNT: u64 = 9;

/// Longer than a suspicion of a member that does not answer.
const STOPPED_FOR: Duration = Duration::from_secs(8);

/// Longer than anything takes on a busy machine; reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a child process runs: a member that says what it sees until its input ends.
#[test]
#[ignore = "run by the test below as a process of its own"]
fn member() {
    let Ok(ports) = std::env::var("RIVVEN_SWIM_PORTS") else {
        return;
    };
    let node: u64 = std::env::var("RIVVEN_SWIM_NODE").unwrap().parse().unwrap();
    let ports: Vec<u16> = ports.split(',').map(|port| port.parse().unwrap()).collect();
    let addr = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
    let bind = ports.get(usize::try_from(node).unwrap() - 1).unwrap();
    let config = SwimConfig {
        bind_addr: addr(bind).into(),
        known_peers: ports.iter().map(|port| addr(port).into()).collect(),
        protocol_period_ms: 400,
        suspect_timeout_ms: 3_000,
    };
    let identity = LocalIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        instance: InstanceId::from_bytes([u8::try_from(node).unwrap(); 16]),
        boot_epoch: BootEpoch(1),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let builder = SwimNode::builder(config).identity(identity);
        let node = builder.key(GossipKey::from_bytes([3; 32])).start().await.unwrap();
        let mut events = node.events();
        while let Some(event) = events.next().await {
            let said = match event {
                MemberEvent::Alive(view) => Some((view.node, "alive", view.boot_epoch.0)),
                MemberEvent::Dead(view) => Some((view.node, "dead", view.boot_epoch.0)),
                _ => None,
            };
            if let Some((subject, what, epoch)) = said {
                println!("EVENT {subject} {what} {epoch}");
                std::io::stdout().flush().unwrap();
            }
        }
    });
}

/// The members, killed whatever happens.
struct Members(Vec<Child>);

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `(observer, subject)` and the last word about it.
type Views = BTreeMap<(u64, u64), String>;

/// Takes in what members say until `done`. Every death is checked by `may_die(observer, subject)`.
fn hear(
    heard: &mpsc::Receiver<(u64, String)>,
    views: &mut Views,
    what: &str,
    may_die: impl Fn(u64, u64) -> bool,
    done: impl Fn(&Views) -> bool,
) {
    while !done(views) {
        let (observer, line) = heard
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{what} did not happen: {views:?}"));
        let mut words = line.split(' ').skip(1);
        let subject: u64 = words.next().unwrap().parse().unwrap();
        let state = words.next().unwrap().to_owned();
        assert_eq!(words.next(), Some("1"), "a new identity");
        assert!(
            state != "dead" || may_die(observer, subject),
            "{observer} declared {subject} dead"
        );
        views.insert((observer, subject), state);
    }
}

#[test]
fn no_running_member_is_declared_dead_while_a_third_is_stopped() {
    let sockets: Vec<UdpSocket> = (0..COUNT)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let ports: Vec<String> = sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap().port().to_string())
        .collect();
    drop(sockets);
    let (say, heard) = mpsc::channel();
    let mut members = Members(Vec::new());
    for node in 1..=COUNT {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "member", "--ignored", "--nocapture"])
            .env("RIVVEN_SWIM_NODE", node.to_string())
            .env("RIVVEN_SWIM_PORTS", ports.join(","))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        members.0.push(child);
        let say = say.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness of the child may have begun the line.
                if let Some(at) = line.find("EVENT ")
                    && say.send((node, line[at..].to_owned())).is_err()
                {
                    return;
                }
            }
        });
    }
    let is = |views: &Views, observer, subject, state: &str| {
        observer == subject || views.get(&(observer, subject)).is_some_and(|said| said == state)
    };
    let all_alive = |views: &Views| (1..=COUNT).all(|a| (1..=COUNT).all(|b| is(views, a, b, "alive")));
    let mut views = Views::new();
    hear(&heard, &mut views, "meeting", |_, _| false, all_alive);

    let stopped = COUNT / 3;
    let signal = |signal| {
        for child in members.0.iter().take(usize::try_from(stopped).unwrap()) {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        }
    };
    signal(Signal::SIGSTOP);
    let only_stopped = |observer: u64, subject: u64| observer > stopped && subject <= stopped;
    let all_dead =
        |views: &Views| (stopped + 1..=COUNT).all(|a| (1..=stopped).all(|b| is(views, a, b, "dead")));
    hear(
        &heard,
        &mut views,
        "the death of the stopped",
        only_stopped,
        all_dead,
    );
    std::thread::sleep(STOPPED_FOR);
    signal(Signal::SIGCONT);
    hear(
        &heard,
        &mut views,
        "the return of the stopped",
        only_stopped,
        all_alive,
    );
}
