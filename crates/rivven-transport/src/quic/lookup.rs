//! Host names, looked up where blocking is allowed: one look-up of a name at a time, however many wait for it.
//!
//! The operating system's resolver cannot be interrupted, and may take half a minute where the caller waits for
//! a second. A caller that gives up leaves its look-up to whoever asks for the same name next.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use futures_util::{FutureExt, future::BoxFuture};
use rivven_types::PeerAddr;
use tokio::sync::watch;

use super::{
    limits::{MAX_ADDRESSES, MAX_NAMES},
    lock,
};
use crate::TaskGroup;

/// What a look-up came to; the error is for people.
type Found = Result<Arc<[IpAddr]>, Arc<str>>;

/// Asks somebody for the addresses of a host name.
type Resolve = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Look-ups under way. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Lookups {
    resolve: Resolve,
    under_way: Arc<Mutex<BTreeMap<String, watch::Receiver<Option<Found>>>>>,
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

impl Default for Lookups {
    fn default() -> Self {
        Self::by(|host| {
            async move {
                // The port only completes what is asked for.
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(found.map(|found| found.ip()).collect())
            }
            .boxed()
        })
    }
}

impl Lookups {
    /// Look-ups by `resolve`.
    pub(super) fn by(
        resolve: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            resolve: Arc::new(resolve),
            under_way: Arc::default(),
        }
    }

    /// The addresses that `addr` stands for, at most [`MAX_ADDRESSES`] of those that are `usable`, and at least
    /// one. A look-up that nobody has begun runs on `tasks`.
    ///
    /// Cancel safe: a look-up that was begun goes on.
    pub(super) async fn addresses(
        &self,
        addr: &PeerAddr,
        tasks: &TaskGroup,
        usable: impl Fn(IpAddr) -> bool,
    ) -> Result<Vec<SocketAddr>, String> {
        if addr.is_unspecified() || addr.port() == 0 {
            return Err(format!("{addr} can be bound but not dialled"));
        }
        if let Some(addr) = addr.as_socket_addr() {
            return Ok(vec![addr]);
        }
        let found = self.found(addr.host(), tasks).await;
        let found = found.map_err(|cause| format!("cannot look up {addr}: {cause}"))?;
        let usable: Vec<_> = found
            .iter()
            .filter(|ip| usable(**ip))
            .map(|ip| SocketAddr::new(*ip, addr.port()))
            .take(MAX_ADDRESSES)
            .collect();
        if usable.is_empty() {
            return Err(format!("{addr} has no address of this node's family"));
        }
        Ok(usable)
    }

    async fn found(&self, host: &str, tasks: &TaskGroup) -> Found {
        let mut found = self.join(host, tasks)?;
        let outcome = match found.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        // Only the end of its group ends a look-up without an outcome.
        outcome.unwrap_or_else(|| Err("this node is shut down".into()))
    }

    /// Waits for the look-up of `host` that is under way, or begins one.
    fn join(&self, host: &str, tasks: &TaskGroup) -> Result<watch::Receiver<Option<Found>>, Arc<str>> {
        let mut under_way = lock(&self.under_way);
        if let Some(found) = under_way.get(host) {
            return Ok(found.clone());
        }
        if under_way.len() >= MAX_NAMES {
            return Err("too many other names are being looked up; the resolver does not answer".into());
        }
        let (tell, found) = watch::channel(None);
        under_way.insert(host.to_owned(), found.clone());
        let (lookups, host) = (self.clone(), host.to_owned());
        tasks.spawn(async move {
            let outcome = (lookups.resolve)(host.clone()).await;
            lock(&lookups.under_way).remove(&host);
            // Nobody may wait for it any more.
            let _ = tell.send(Some(match outcome {
                Ok(found) => Ok(found.into()),
                Err(error) => Err(error.to_string().into()),
            }));
        });
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Answers after half a minute, and says how often it was asked.
    fn slow() -> (Lookups, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let lookups = Lookups::by(move |host| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                sleep(Duration::from_secs(30)).await;
                match host.as_str() {
                    "unknown" => Err(io::Error::other("no such host")),
                    _ => Ok(vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
                }
            }
            .boxed()
        });
        (lookups, asked)
    }

    fn named(host: &str) -> PeerAddr {
        format!("{host}:7000").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_once_however_many_ask_and_give_up() {
        let ((lookups, asked), tasks) = (slow(), TaskGroup::current());
        let addr = named("node.example");
        for _ in 0..10 {
            let waiting = lookups.addresses(&addr, &tasks, |_| true);
            assert!(timeout(Duration::from_secs(2), waiting).await.is_err());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let all = join_all((0..100).map(|_| lookups.addresses(&addr, &tasks, |ip| ip.is_ipv4()))).await;
        assert!(
            all.iter()
                .all(|found| *found == Ok(vec!["127.0.0.1:7000".parse().unwrap()]))
        );
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // What was found is not kept: the next one asks again.
        let found = lookups.addresses(&addr, &tasks, |_| true).await.unwrap();
        assert_eq!((found.len(), asked.load(Ordering::Relaxed)), (2, 2));
        let none = lookups.addresses(&addr, &tasks, |_| false).await.unwrap_err();
        assert!(none.contains("family"), "{none}");
        let unknown = lookups
            .addresses(&named("unknown"), &tasks, |_| true)
            .await
            .unwrap_err();
        assert!(unknown.contains("no such host"), "{unknown}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_looked_up_at_a_time_are_bounded_and_addresses_need_no_look_up() {
        let ((lookups, asked), tasks) = (slow(), TaskGroup::current());
        let waiting = (0..MAX_NAMES).map(|at| {
            let (lookups, tasks) = (lookups.clone(), tasks.clone());
            let addr = named(&format!("node-{at}.example"));
            tasks
                .clone()
                .spawn(async move { lookups.addresses(&addr, &tasks, |_| true).await })
        });
        let waiting: Vec<_> = waiting.collect();
        sleep(Duration::from_secs(1)).await;
        let refused = lookups
            .addresses(&named("one-more"), &tasks, |_| true)
            .await
            .unwrap_err();
        assert!(refused.contains("too many"), "{refused}");
        let plain = named("127.0.0.1");
        let found = lookups.addresses(&plain, &tasks, |_| false).await;
        assert_eq!(found, Ok(vec!["127.0.0.1:7000".parse().unwrap()]));
        assert_eq!(asked.load(Ordering::Relaxed), MAX_NAMES);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap().unwrap().len(), 2);
        }
        assert!(lock(&lookups.under_way).is_empty());
        // A node that ends leaves nobody waiting.
        let later = named("later.example");
        let ending = lookups.addresses(&later, &tasks, |_| true);
        let (ended, ()) = tokio::join!(ending, async {
            sleep(Duration::from_secs(1)).await;
            tasks.abort();
        });
        assert!(ended.unwrap_err().contains("shut down"));
    }
}
