//! `rivven-node run`: one node, from its configuration to its clean end.

use std::{path::Path, time::Duration};

use rivven_admin::{
    AdminOptions, AdminService, AdminToken, BindError, HealthService, MetricsRecorder, bind_admin,
    bind_health,
};
use rivven_cluster::{Cluster, ClusterConfig, StartError};
use tokio::{net::TcpListener, sync::watch};
use tracing::{error, info, warn};

use super::{Failure, Output, RunArgs, block_on, config, dev, log};
use crate::{harness::token_path, signal::Stop};

/// How long tasks may take to end after the node has stopped.
pub(super) const RUNTIME_GRACE: Duration = Duration::from_secs(2);
/// How often the node is asked whether it can go on.
const LIVENESS_PERIOD: Duration = Duration::from_secs(1);

/// Runs a node until it is asked to stop.
pub(crate) fn run(args: &RunArgs, out: &mut Output) -> Result<(), Failure> {
    let mut config = config::load(args)?;
    if args.print_config {
        out.line(config.effective().to_yaml().trim_end());
        return Ok(());
    }
    log::start(args.log_format)?;
    // Lives until the node has ended, and then takes the data of `--dev` with it.
    let _temporary = if args.dev {
        dev::prepare(&mut config)?
    } else {
        None
    };
    block_on(async {
        let mut stop = Stop::listen()?;
        if args.end_with_stdin {
            stop.watch_stdin()?;
        }
        serve(config.effective(), stop).await
    })
}

async fn serve(config: ClusterConfig, mut stop: Stop) -> Result<(), Failure> {
    // First what costs nothing to undo: a port in use is found before anything is written.
    let admin = bind_admin(config.admin.address, config.admin.insecure).await?;
    let health = bind_health(config.admin.health_address).await?;
    // Libraries take their handles as they start. A process that has a recorder already, a test, keeps it.
    let metrics = MetricsRecorder::install().ok();
    let cluster = tokio::select! {
        biased;
        cause = stop.requested() => {
            info!(cause, "stopped while starting");
            return Ok(());
        }
        started = Cluster::start(config.clone()) => started?,
    };
    let options = AdminOptions {
        token: token(config.data_dir.as_deref().unwrap_or(Path::new(".")))?,
        host_names: config
            .advertise_address
            .iter()
            .map(|addr| addr.host().to_owned())
            .collect(),
        metrics: metrics.clone(),
    };
    info!(
        node_id = config.node_id,
        admin = %address(&admin),
        health = %address(&health),
        version = env!("CARGO_PKG_VERSION"),
        "node started"
    );
    let (stopping, stopped) = watch::channel(false);
    let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is a reason to stop too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let api = AdminService::new(cluster.clone(), options).serve(admin, until_stopped(stopped.clone()));
    let mut scraped = HealthService::new(cluster.clone());
    if let Some(metrics) = metrics {
        scraped = scraped.with_metrics(metrics);
    }
    let health = scraped.serve(health, until_stopped(stopped));
    let life = async {
        let result = live(&cluster, &mut stop).await;
        // The API stays up while the node hands over its work, so that what was asked is answered.
        shut_down(&cluster, &mut stop).await;
        stopping.send_replace(true);
        result
    };
    let (result, (), ()) = tokio::join!(life, api, health);
    info!("node stopped");
    result
}

/// Waits until the node is asked to stop, or cannot go on.
async fn live(cluster: &Cluster, stop: &mut Stop) -> Result<(), Failure> {
    loop {
        tokio::select! {
            biased;
            cause = stop.requested() => {
                info!(cause, "stopping");
                return Ok(());
            }
            () = tokio::time::sleep(LIVENESS_PERIOD) => {}
        }
        if let Some(check) = cluster.liveness().into_iter().find(|check| !check.ok) {
            error!(check = check.name, detail = check.detail, "the node cannot go on");
            let message = format!(
                "the node cannot go on: {} ({}); mend the cause and start it again",
                check.detail, check.name
            );
            return Err(Failure::world("node-failed", message));
        }
    }
}

/// Stops in good order; a second request cuts it short.
async fn shut_down(cluster: &Cluster, stop: &mut Stop) {
    tokio::select! {
        biased;
        report = cluster.shutdown() => info!(?report, "handed over"),
        cause = stop.requested() => warn!(cause, "asked twice: stopping without handing over"),
    }
}

/// The node's admin token, made at its first start.
fn token(data_dir: &Path) -> Result<AdminToken, Failure> {
    let path = token_path(data_dir);
    let fresh = AdminToken::from_random(
        rivven_transport::random_bytes().map_err(|error| Failure::world(error.code(), error))?,
    );
    AdminToken::load_or_create(&path, fresh).map_err(|error| {
        let message = format!("cannot use {}: {error}; check its owner and mode", path.display());
        Failure::world("admin-token-unusable", message)
    })
}

fn address(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Identity(error) => error.into(),
            StartError::NodeIdMismatch { .. } | StartError::GossipKey(_) => Self::usage(error.code(), &error),
            error => Self::world(error.code(), &error),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match &error {
            BindError::NotLoopback(_) => Self::usage(error.code(), &error),
            _ => Self::world(error.code(), &error),
        }
    }
}
