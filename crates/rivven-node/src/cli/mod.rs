//! The command line.

mod cert;
mod check;
mod config;
mod dev;
mod failure;
mod feature;
mod gossip_keys;
mod join;
mod kv;
mod log;
mod member;
mod output;
mod partitions;
mod recover;
mod run;
mod snapshot;
mod status;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use rivven_cluster::NodeId;
use rivven_transport::{
    KeyKind,
    identity::{Label, SanTemplate, Subject},
};

use self::{
    feature::FeatureCommand, kv::KvCommand, member::MemberCommand, recover::RecoverArgs,
    snapshot::SnapshotCommand,
};
pub(crate) use failure::Failure;
pub(crate) use output::Output;

/// One node of a rivven cluster, and the tools to run it.
#[derive(Debug, Parser)]
#[command(name = "rivven-node", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node until SIGTERM or Ctrl-C.
    Run(RunArgs),
    /// Start three nodes, kill the leader, and show that nothing acknowledged is lost.
    Demo(DemoArgs),
    /// Make certificates.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Check a configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show what a running node knows of itself and of its cluster.
    Status(StatusArgs),
    /// Read, set and watch keys, as a program that is no member.
    #[command(subcommand)]
    Kv(KvCommand),
    /// The keys that seal gossip.
    #[command(subcommand)]
    GossipKeys(GossipKeysCommand),
    /// Show and change who belongs to the cluster and who votes.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Feature levels: what the cluster may write to its log.
    #[command(subcommand)]
    Feature(FeatureCommand),
    /// Take, verify and restore backups.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    Recover(RecoverArgs),
    /// Check every byte that a stopped node has stored, and change nothing.
    Check {
        /// Its data directory.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// List, create, change and delete topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Spread partitions over the nodes anew.
    #[command(subcommand)]
    Rebalance(RebalanceCommand),
    /// List registered nodes, and weigh them.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show the hash ring of the active nodes.
    Ring {
        /// Draw it to this file, as SVG.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// Which running node to ask.
#[derive(Clone, Debug, Args)]
struct AskArgs {
    /// Admin address of the node to ask.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
}

/// Which running node to have change something.
#[derive(Clone, Debug, Args)]
struct ChangeArgs {
    /// Admin address of the node to ask.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
    /// The asked node's admin.token, in its data directory.
    #[arg(long, value_name = "FILE")]
    admin_token: PathBuf,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// List topics, or show the partitions of one.
    List {
        /// Name of a topic.
        name: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Create a topic.
    Create {
        /// Name of the topic.
        name: String,
        /// Number of partitions.
        #[arg(long, value_name = "N")]
        partitions: u32,
        /// Replicas of each partition; the node's `partitioning.replication_factor` when left out.
        #[arg(long, value_name = "N")]
        replication_factor: Option<u16>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Change a topic. Partitions can only be added, and keys of records then belong to other ones, mostly.
    Change {
        /// Name of the topic.
        name: String,
        /// Partitions in all.
        #[arg(long, value_name = "N")]
        partitions: Option<u32>,
        /// Replicas of each partition.
        #[arg(long, value_name = "N")]
        replication_factor: Option<u16>,
        /// A setting, `KEY=VALUE`; `KEY=` unsets it. May be repeated.
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = partitions::setting)]
        settings: Vec<(String, Option<String>)>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Delete a topic and its partitions.
    Delete {
        /// Name of the topic.
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// What a plan is to reach.
#[derive(Clone, Debug, Args)]
struct GoalArgs {
    /// Nodes to be emptied, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "ID,…")]
    exclude: Vec<NodeId>,
    /// Empty nodes that are down, too.
    #[arg(long)]
    replace_down: bool,
    /// Topics, or partitions such as `orders/3`, that stay as they are, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "TOPIC[/N],…")]
    pin: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum RebalanceCommand {
    /// Show what a rebalance would move, and what it would be good for. Changes nothing.
    Plan {
        #[command(flatten)]
        goal: GoalArgs,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Plan and begin. The controller goes on by itself.
    Start {
        #[command(flatten)]
        goal: GoalArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Show how far the rebalance under way is.
    Status {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Begin no further moves; those under way end.
    Pause {
        /// Number of the rebalance.
        id: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Go on.
    Resume {
        /// Number of the rebalance.
        id: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Bring every partition back to the replicas that it had.
    Cancel {
        /// Number of the rebalance.
        id: u64,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List registered nodes: status, zone, weight, endpoints, and how much each holds and leads.
    List {
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Give a node another weight, or the one of its configuration again. With 0 it is emptied by and by.
    Weight {
        /// Number of the node.
        node: NodeId,
        /// Percent of a normal node; left out: that of its configuration.
        percent: Option<u16>,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// How to run a node. Flags win over the environment, the environment over the file.
#[derive(Clone, Debug, Default, Args)]
struct RunArgs {
    /// Configuration file (YAML).
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    config: Option<PathBuf>,
    /// Directory with ca.pem, node.pem, node.key and gossip.key.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Directory of everything the node stores.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A cluster of one on loopback, with a certificate authority of its own; without --data-dir nothing
    /// outlives the process.
    #[arg(long)]
    dev: bool,
    /// Print the configuration this command would run with, and exit.
    #[arg(long)]
    print_config: bool,
    /// How log lines look. RIVVEN_LOG chooses which are written, as in `info,rivven_raft=debug`.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Stop when standard input is closed, as it is when the parent process ends.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A kind of private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    /// Ed25519.
    Ed25519,
    /// ECDSA over P-256, for programs that know no Ed25519.
    P256,
}

impl From<Key> for KeyKind {
    fn from(key: Key) -> Self {
        match key {
            Key::Ed25519 => Self::Ed25519,
            Key::P256 => Self::P256,
        }
    }
}

#[derive(Clone, Debug, Args)]
struct DemoArgs {
    /// Leave the directory with logs and data behind.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Make a new cluster: its certificate authority, and certificate and keys for each node.
    Init {
        /// Ids of the nodes, separated by commas.
        #[arg(long, value_delimiter = ',', required = true, value_name = "ID,…")]
        nodes: Vec<NodeId>,
        /// Directory to write to. Nothing in it is overwritten.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How certificates name their holders: `cluster.tls.name_template` of every node.
        #[arg(long, value_name = "URI", default_value_t)]
        name_template: SanTemplate,
        /// Kind of the keys of the authority and of the nodes that are given one.
        #[arg(long, value_enum, default_value_t = Key::Ed25519)]
        key: Key,
    },
    /// Give one holder a new certificate for its key, or make everything a new one needs.
    Issue {
        /// Directory that `cert init` wrote, with ca.pem and ca.key.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        #[command(flatten)]
        holder: HolderArgs,
        /// What `cert init` was told.
        #[arg(long, value_name = "URI", default_value_t)]
        name_template: SanTemplate,
    },
    /// Have a running node make a token with which one node gets its certificate, once.
    JoinToken(JoinTokenArgs),
    /// Get this node's certificate with a token, and everything else that its TLS directory holds.
    Join {
        /// The token, or `-` to read it from standard input.
        token: String,
        /// Directory to write to. Nothing complete in it is overwritten.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Whom a certificate is for.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct HolderArgs {
    /// Id of a node.
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
    /// Name of a program that uses the cluster: a-z, 0-9, `.`, `_` and `-`.
    #[arg(long, value_name = "NAME", value_parser = label)]
    client: Option<Label>,
    /// Name of a person or program that runs the cluster, of the same characters.
    #[arg(long, value_name = "NAME", value_parser = label)]
    operator: Option<Label>,
}

impl HolderArgs {
    /// The holder. Exactly one is named, or the command line was refused.
    fn subject(self) -> Option<Subject> {
        let (client, operator) = (
            self.client.map(Subject::Client),
            self.operator.map(Subject::Operator),
        );
        self.node.map(Subject::Node).or(client).or(operator)
    }
}

fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|_| format!("`{text}` is no name; write 1 to 64 of a-z, 0-9, `.`, `_` and `-`"))
}

#[derive(Clone, Debug, Args)]
struct JoinTokenArgs {
    /// Id of the node that is to join.
    #[arg(long, value_name = "ID")]
    node: NodeId,
    /// Admin address of the node to ask.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
    /// The asked node's admin.token, in its data directory.
    #[arg(long, value_name = "FILE")]
    admin_token: PathBuf,
    /// How long the token is good: 1m to 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = join::life)]
    ttl: Duration,
}

#[derive(Debug, Subcommand)]
enum GossipKeysCommand {
    /// Have every member of a running cluster change to a new key, as when one may have leaked.
    Rotate(RotateArgs),
}

#[derive(Clone, Debug, Args)]
struct RotateArgs {
    /// Admin address of the node to ask.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
    /// The asked node's admin.token, in its data directory.
    #[arg(long, value_name = "FILE")]
    admin_token: PathBuf,
    /// How long to wait until that node uses the key; 0s does not wait. A member that does not answer holds the
    /// change up for a minute.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = join::life)]
    wait: Duration,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file, with the environment applied, and show what it comes to.
    Check {
        /// Configuration file (YAML).
        file: PathBuf,
    },
}

#[derive(Clone, Debug, Args)]
struct StatusArgs {
    /// Admin address of the node to ask.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9640")]
    admin: SocketAddr,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let mut out = Output::stdout();
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args, &mut out),
        Command::Demo(args) => crate::demo::run(args.keep, &mut out),
        Command::Cert(CertCommand::Init {
            nodes,
            out: dir,
            name_template,
            key,
        }) => cert::init(&nodes, &dir, (&name_template, key.into()), &mut out),
        Command::Cert(CertCommand::Issue {
            ca,
            holder,
            name_template,
        }) => cert::issue(&ca, holder.subject(), &name_template, &mut out),
        Command::Cert(CertCommand::JoinToken(args)) => join::token(&args, &mut out),
        Command::Cert(CertCommand::Join { token, out: dir }) => join::run(&token, &dir, &mut out),
        Command::Config(ConfigCommand::Check { file }) => config::check(&file, &mut out),
        Command::Status(args) => status::run(args.admin, &mut out),
        Command::Kv(command) => kv::run(command, &mut out),
        Command::GossipKeys(GossipKeysCommand::Rotate(args)) => gossip_keys::rotate(&args, &mut out),
        Command::Member(command) => member::run(command, &mut out),
        Command::Feature(command) => feature::run(command, &mut out),
        Command::Snapshot(command) => snapshot::run(command, &mut out),
        Command::Recover(args) => recover::run(args, &mut out),
        Command::Check { data_dir } => check::run(&data_dir, &mut out),
        Command::Topic(command) => partitions::topic(command, &mut out),
        Command::Rebalance(command) => partitions::rebalance(command, &mut out),
        Command::Node(command) => partitions::node(command, &mut out),
        Command::Ring { svg, ask } => partitions::ring(svg.as_deref(), &ask, &mut out),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

/// Runs `task` on a runtime of its own, and ends what it left behind.
pub(crate) fn block_on<T>(task: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("rivven-node")
        .build()?;
    let result = runtime.block_on(task);
    runtime.shutdown_timeout(run::RUNTIME_GRACE);
    result
}
