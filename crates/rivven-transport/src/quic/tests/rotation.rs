//! Certificates that change, end, or are taken away while connections stand.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::*;
use crate::{
    clock::WallClock,
    identity::{CA_FILE, CERT_FILE, KEY_FILE, Validity},
    warnings::Warnings,
};

/// Writes an identity whose bundle holds `anchors` and whose certificate `issuer` signed for so many seconds.
fn write_for(
    secs: u64,
    dir: &Path,
    anchors: &[&CertificateAuthority],
    issuer: &CertificateAuthority,
    node: NodeId,
) {
    let cluster = issuer.cluster();
    let name = NodeName { cluster, node };
    let mut validity = Validity::from_now(Duration::from_secs(secs));
    validity.not_before = Duration::from_secs(WallClock::now().as_secs() - 10);
    let issued = issuer.issue_as(name, validity).unwrap();
    let bundle: String = anchors.iter().map(|ca| ca.cert_pem()).collect();
    fs::write(dir.join(CA_FILE), bundle).unwrap();
    fs::write(dir.join(CERT_FILE), issued.cert_pem()).unwrap();
    let key = dir.join(KEY_FILE);
    fs::write(&key, issued.key_pem()).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

fn write(dir: &Path, anchors: &[&CertificateAuthority], issuer: &CertificateAuthority, node: NodeId) {
    write_for(3_600, dir, anchors, issuer, node);
}

/// A node whose identity lies in files.
struct OnDisk {
    dir: tempfile::TempDir,
    watch: IdentityWatch,
    transport: Transport,
}

impl OnDisk {
    fn start(ca: &CertificateAuthority, node: NodeId) -> Self {
        Self::start_for(3_600, ca, node)
    }

    fn start_for(secs: u64, ca: &CertificateAuthority, node: NodeId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_for(secs, dir.path(), &[ca], ca, node);
        let watch = IdentityWatch::load(dir.path()).unwrap();
        let local = local(&watch.current(), 1);
        let transport = start_with(watch.clone(), local, &Slept::default());
        Self {
            dir,
            watch,
            transport,
        }
    }

    fn rewrite(&self, anchors: &[&CertificateAuthority], issuer: &CertificateAuthority) {
        write(self.dir.path(), anchors, issuer, self.transport.local().node);
        assert!(self.watch.reload().unwrap(), "the files have changed");
        assert!(!self.watch.reload().unwrap(), "the files have not changed");
    }
}

/// Calls made by [`under_load`]: answered, failed.
#[derive(Default)]
struct Load {
    answered: AtomicU64,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Load {
    async fn run(&self, from: &Transport, to: NodeId) {
        while !self.stop.load(Ordering::Relaxed) {
            match echo(from, to, ctx(5_000)).await {
                Ok(_) => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
                Err(error) => lock(&self.failed).push(error.to_string()),
            }
        }
    }

    /// Waits until the calls have gone on for a while, so that each step is a step under load.
    async fn more(&self, calls: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + calls;
        let end = Instant::now() + Duration::from_secs(20);
        while self.answered.load(Ordering::Relaxed) < goal {
            assert!(
                Instant::now() < end,
                "the load has stopped: {:?}",
                lock(&self.failed)
            );
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Seconds for which the first certificates of the next test are valid.
const SHORT: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_authority_rotate_under_load_without_a_failed_call() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (old, new) = (authority(), authority());
    let expiry = WallClock::now().as_secs() + SHORT + 1;
    let (one, two) = (
        OnDisk::start_for(SHORT, &old, 1),
        OnDisk::start_for(SHORT, &old, 2),
    );
    introduce(&one.transport, &two.transport);
    introduce(&two.transport, &one.transport);
    let load = Load::default();
    let rotate = async {
        load.more(200).await;
        // One after the other and both at once.
        one.rewrite(&[&old], &old);
        load.more(200).await;
        two.rewrite(&[&old], &old);
        load.more(200).await;
        one.rewrite(&[&old], &old);
        two.rewrite(&[&old], &old);
        load.more(200).await;
        // First everybody believes both authorities, then the certificates change.
        one.rewrite(&[&old, &new], &old);
        two.rewrite(&[&old, &new], &old);
        load.more(200).await;
        one.rewrite(&[&old, &new], &new);
        two.rewrite(&[&old, &new], &new);
        load.more(200).await;
        // Both kinds of newcomer are let in, and find members they believe.
        for ca in [&old, &new] {
            let three = OnDisk::start(ca, 3);
            three.rewrite(&[&old, &new], ca);
            introduce(&three.transport, &one.transport);
            assert_eq!(echo(&three.transport, 1, ctx(5_000)).await.unwrap().0, 3);
            introduce(&two.transport, &three.transport);
            assert_eq!(echo(&two.transport, 3, ctx(5_000)).await.unwrap().0, 2);
            three.transport.shutdown(Duration::ZERO).await;
        }
        // Then nobody believes the old one any more.
        one.rewrite(&[&new], &new);
        load.more(200).await;
        two.rewrite(&[&new], &new);
        load.more(200).await;
        while WallClock::now().as_secs() <= expiry {
            load.more(50).await;
        }
        load.more(200).await;
        load.stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        rotate,
        load.run(&one.transport, 2),
        load.run(&two.transport, 1),
        load.run(&one.transport, 2),
        load.run(&two.transport, 1),
    );
    assert_eq!(*lock(&load.failed), Vec::<String>::new());
    assert!(load.answered.load(Ordering::Relaxed) >= 2_000);
    let text = warnings.text();
    assert!(
        !text.contains("expired"),
        "the old connections were kept:\n{text}"
    );
}

#[tokio::test]
async fn an_authority_taken_out_of_the_bundle_ends_the_connections_it_vouched_for() {
    let (old, new) = (authority(), authority());
    let (one, two) = (OnDisk::start(&old, 1), OnDisk::start(&old, 2));
    introduce(&one.transport, &two.transport);
    echo(&one.transport, 2, ctx(5_000)).await.unwrap();
    two.rewrite(&[&new], &new);
    // Node 1 does not know the new authority, and node 2 no longer the old one.
    // The call that the connection ends under is interrupted; those after it do not begin.
    until_refused(&one.transport, 2).await;
    one.rewrite(&[&new], &new);
    echo(&one.transport, 2, ctx(10_000)).await.unwrap();
}

#[tokio::test]
async fn unusable_files_leave_the_identity_in_use() {
    let ca = authority();
    let one = OnDisk::start(&ca, 1);
    let check = |code: &str| {
        let before = one.watch.current();
        assert_eq!(one.watch.reload().unwrap_err().code(), code);
        assert!(before.is(&one.watch.current()));
    };
    write(one.dir.path(), &[&ca], &ca, 2);
    check("identity-other-node");
    write(one.dir.path(), &[&ca], &authority(), 1);
    check("certificate-not-signed-by-ca");
    fs::remove_file(one.dir.path().join(CERT_FILE)).unwrap();
    check("identity-missing");
    // Looking finds the same, and then what is right again.
    one.watch.look();
    write(one.dir.path(), &[&ca], &ca, 1);
    let before = one.watch.current();
    one.watch.look();
    assert!(!before.is(&one.watch.current()));
}

/// A change of mode moves neither the time of a file's last change nor its length.
#[cfg(unix)]
#[tokio::test]
async fn files_that_were_not_usable_are_looked_at_until_they_are() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let ca = authority();
    let one = OnDisk::start(&ca, 1);
    let before = one.watch.current();
    write(one.dir.path(), &[&ca], &ca, 1);
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(one.dir.path().join(KEY_FILE), mode).unwrap();
    };
    mode(0o644);
    for _ in 0..3 {
        one.watch.look();
        assert!(before.is(&one.watch.current()));
    }
    let told = || warnings.text().matches("not usable").count();
    assert_eq!(told(), 1, "{}", warnings.text());
    mode(0o600);
    one.watch.look();
    let fresh = one.watch.current();
    assert!(!before.is(&fresh));
    // Another fault is told, and so is the first one when it comes back.
    for (times, code) in [(2, 0o640), (3, 0o604)] {
        write(one.dir.path(), &[&ca], &ca, 1);
        mode(code);
        one.watch.look();
        assert_eq!(told(), times, "{}", warnings.text());
        mode(0o600);
        one.watch.look();
    }
    assert!(!fresh.is(&one.watch.current()));
}

#[tokio::test(start_paused = true)]
async fn files_are_followed_without_being_told() {
    let ca = authority();
    let one = OnDisk::start(&ca, 1);
    let before = one.watch.current();
    let mut changes = one.watch.subscribe();
    write(one.dir.path(), &[&ca], &ca, 1);
    changes.changed().await.unwrap();
    assert!(!before.is(&one.watch.current()));
}

/// Waits until a call from `from` to `to` fails because the peer cannot be reached or lets nobody in, and says after
/// how long.
async fn until_refused(from: &Transport, to: NodeId) -> (Duration, CallError) {
    let began = Instant::now();
    loop {
        match echo(from, to, ctx(700)).await {
            Err(error) if ["unreachable", "member-removed"].contains(&error.code()) => {
                return (began.elapsed(), error);
            }
            Ok(_) | Err(_) => assert!(began.elapsed() < Duration::from_secs(10)),
        }
    }
}

#[tokio::test]
async fn a_removed_node_loses_its_connections_at_once_and_says_why() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let (one, two) = pair();
    echo(&one, 2, ctx(5_000)).await.unwrap();
    echo(&two, 1, ctx(5_000)).await.unwrap();
    let slow = two.call::<Sleep>(1, &20_000, ctx(30_000));
    let deny = async {
        sleep(Duration::from_millis(50)).await;
        one.deny(2);
        Instant::now()
    };
    let (slow, denied) = tokio::join!(slow, deny);
    assert!(
        denied.elapsed() < Duration::from_secs(1),
        "{:?}",
        denied.elapsed()
    );
    assert_eq!(slow.unwrap_err().code(), "maybe-executed");
    let error = echo(&one, 2, ctx(1_000)).await.unwrap_err();
    assert_eq!(error.outcome(), crate::Outcome::NotDone);
    assert!(error.to_string().contains("removed from the cluster"), "{error}");
    let (_, error) = until_refused(&two, 1).await;
    assert_eq!(error.code(), "member-removed");
    assert!(error.to_string().contains("removed from the cluster"), "{error}");
    let text = warnings.text();
    assert!(text.contains("refused connection"), "{text}");
    assert!(
        text.contains("the peer refused this node: node 2 has been removed"),
        "{text}"
    );
    one.allow(2);
    echo(&one, 2, ctx(10_000)).await.unwrap();
    echo(&two, 1, ctx(10_000)).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_when_the_certificate_behind_it_does() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let ca = authority();
    let name = NodeName {
        cluster: ca.cluster(),
        node: 2,
    };
    let mut validity = Validity::from_now(Duration::from_secs(3));
    validity.not_before = Duration::from_secs(WallClock::now().as_secs() - 10);
    let short = ca.issue_as(name, validity).unwrap();
    let short = NodeIdentity::from_pem(ca.cert_pem(), short.cert_pem(), short.key_pem()).unwrap();
    let watch = IdentityWatch::from(short.clone());
    let (one, two) = (
        start(identity(&ca, 1)),
        start_with(watch.clone(), local(&short, 1), &Slept::default()),
    );
    introduce(&one, &two);
    introduce(&two, &one);
    // Both directions: the one who dials and the one who answers are checked alike.
    let (dialled, answered) = tokio::join!(
        two.call::<Sleep>(1, &20_000, ctx(30_000)),
        one.call::<Sleep>(2, &20_000, ctx(30_000)),
    );
    assert!(WallClock::now().as_secs() > validity.not_after.as_secs());
    for error in [dialled.unwrap_err(), answered.unwrap_err()] {
        assert_eq!(error.code(), "maybe-executed", "{error}");
    }
    let text = warnings.text();
    assert!(text.contains("the certificate of node 2 has expired"), "{text}");
    assert_eq!(until_refused(&two, 1).await.1.outcome(), crate::Outcome::NotDone);
    // A new certificate is used without a restart.
    assert!(watch.replace(identity(&ca, 2)).unwrap());
    echo(&two, 1, ctx(10_000)).await.unwrap();
    echo(&one, 2, ctx(10_000)).await.unwrap();
}
