//! `rivven-node snapshot`: backups taken, verified, and restored as a new cluster.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use rivven_cluster::offline::{self, BackupReport, MemberPlace, OfflineError, Refounding};

use super::{ChangeArgs, Failure, Output, RunArgs, block_on, config, join::admin_token};
use crate::client::AdminClient;

/// How long the asked node may take until it answers: longer than it takes itself for its snapshot, 600 s, so that it is
/// the one to say why there is none.
const SNAPSHOT_TIME: Duration = Duration::from_secs(630);

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Store everything that a running cluster replicates, as of now, in a file, and verify it.
    ///
    /// The file has all values in the clear; it has no keys and no certificates. Nothing stops meanwhile.
    Save {
        /// The file.
        file: PathBuf,
        /// Replace the file if there is one.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        ask: ChangeArgs,
    },
    /// Read all of a file, check every checksum in it, and show what it holds.
    Verify {
        /// The file.
        file: PathBuf,
    },
    /// Make a NEW cluster of one node from a file: with another cluster id, and so with certificates of its own.
    ///
    /// Make those first (`rivven-node cert init`). Start the node then: it leads alone, and others join it with
    /// empty data directories and the new certificates. Nodes of the old cluster cannot.
    Restore(RestoreArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct RestoreArgs {
    /// The file.
    file: PathBuf,
    /// Configuration file (YAML) of the node that the new cluster begins with.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory with the new cluster's ca.pem, and this node's node.pem and node.key.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Directory of everything the node stores; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(command: SnapshotCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save { file, force, ask } => save(&file, force, &ask, out),
        SnapshotCommand::Verify { file } => {
            show(
                &file,
                &offline::verify_backup(&file).map_err(OfflineError::from)?,
                out,
            );
            Ok(())
        }
        SnapshotCommand::Restore(args) => restore(args, out),
    }
}

fn save(file: &Path, force: bool, ask: &ChangeArgs, out: &mut Output) -> Result<(), Failure> {
    let exists = |file: &Path| {
        let message = format!(
            "{} exists; choose another name, or replace it with --force",
            file.display()
        );
        Failure::usage("file-exists", message)
    };
    if !force && file.exists() {
        return Err(exists(file));
    }
    let token = admin_token(&ask.admin_token)?;
    let partial = Partial::create(file)?;
    let checksum = block_on(async {
        let client = AdminClient::new(ask.admin).with_timeout(SNAPSHOT_TIME);
        let mut stream = client.with_token(token.reveal()).snapshot().await?;
        while let Some(bytes) = stream.next().await? {
            partial.write(&bytes)?;
        }
        Ok(stream.checksum)
    })?;
    partial.file.sync_all().map_err(|error| partial.failed(&error))?;
    let report = offline::verify_backup(&partial.path).map_err(OfflineError::from)?;
    if format!("{:08x}", report.crc32c) != checksum {
        let message = "what arrived is not what was sent, though it is whole; save it again";
        return Err(Failure::world("backup-damaged", message));
    }
    if !force && file.exists() {
        return Err(exists(file));
    }
    partial.finish(file)?;
    show(file, &report, out);
    Ok(())
}

/// A file that is being written beside its place; removed unless it is finished.
struct Partial {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut path = OsString::from(target);
        path.push(".partial");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        // A file of its own: what lies there may be readable by others, lead elsewhere, or be written by another process,
        // which finds out that its file is gone.
        options.write(true).create_new(true);
        // It holds whatever the cluster holds.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let file = removed.and_then(|()| options.open(&path));
        let file = file.map_err(|error| not_written(&path, &error))?;
        Ok(Self {
            path,
            file,
            finished: false,
        })
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        (&self.file).write_all(bytes).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        not_written(&self.path, error)
    }

    /// Gives a synced file its name, durably.
    fn finish(mut self, target: &Path) -> Result<(), Failure> {
        fs::rename(&self.path, target).map_err(|error| not_written(target, &error))?;
        self.finished = true;
        let parent = match target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(()),
        };
        // Only Unix can sync a directory.
        if cfg!(unix) {
            let synced = File::open(parent).and_then(|dir| dir.sync_all());
            synced.map_err(|error| not_written(target, &error))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            // What is left over is replaced by the next attempt.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn not_written(path: &Path, error: &io::Error) -> Failure {
    let message = format!(
        "cannot write {}: {error}; check the directory and the free space",
        path.display()
    );
    Failure::world("file-not-written", message)
}

fn restore(args: RestoreArgs, out: &mut Output) -> Result<(), Failure> {
    let RestoreArgs {
        file,
        config,
        tls_dir,
        data_dir,
    } = args;
    let config = config::load(&RunArgs {
        config: Some(config),
        tls_dir,
        data_dir,
        ..RunArgs::default()
    })?;
    let restored = block_on(async { Ok(offline::restore(config.effective(), &file).await?) })?;
    let Refounding {
        cluster, last_index, ..
    } = &restored.refounding;
    out.line(format_args!(
        "restored everything up to entry {last_index} of cluster {cluster} to {}",
        restored.data_dir.display()
    ));
    out.line(format_args!(
        "this is a NEW cluster, {}, with a certificate authority of its own: certificates, join tokens and data \
         directories of the old one are of no use here",
        restored.cluster
    ));
    out.line(format_args!(
        "start node {} with this configuration; others join it with empty data directories and certificates of the \
         new authority",
        restored.node
    ));
    Ok(())
}

fn show(file: &Path, report: &BackupReport, out: &mut Output) {
    out.line(format_args!("backup    {}", file.display()));
    out.line(format_args!(
        "bytes     {}, CRC32C {:08x}, all checked",
        report.bytes, report.crc32c
    ));
    out.line(format_args!("cluster   {}", report.cluster));
    out.line(format_args!("last      {}", report.last));
    if let Some(digest) = report.digest {
        out.line(format_args!("digest    {digest}"));
    }
    for member in &report.members {
        out.line(format_args!("member    {}", place(member)));
    }
    for (feature, level) in &report.levels {
        out.line(format_args!("level     {feature} {level}"));
    }
    out.line(format_args!("sessions  {}", report.sessions));
    for done in &report.refoundings {
        let Refounding {
            cause, at_ms, node, ..
        } = done;
        let cause = cause.as_str();
        out.line(format_args!(
            "before    {cause} with node {node} at {at_ms} ms of 1970"
        ));
    }
}

/// A member, for people.
pub(super) fn place(member: &MemberPlace) -> String {
    let votes = if member.votes { "votes" } else { "learns" };
    let disk = member
        .instance
        .map_or_else(|| "not known".to_owned(), |instance| instance.to_string());
    format!(
        "node {} {votes}, at {}, data directory {disk}",
        member.node, member.addr
    )
}

impl From<OfflineError> for Failure {
    fn from(error: OfflineError) -> Self {
        match error {
            OfflineError::Setup(error) => error.into(),
            OfflineError::TlsInside { .. } | OfflineError::NoAddress => Self::usage(error.code(), &error),
            error => Self::world(error.code(), &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_in_the_making_has_its_name_when_it_is_finished_and_else_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        drop(Partial::create(&target).unwrap());
        assert_eq!(names(dir.path()), Vec::<String>::new());
        let partial = Partial::create(&target).unwrap();
        partial.write(b"all of it").unwrap();
        partial.finish(&target).unwrap();
        assert_eq!(names(dir.path()), ["backup"]);
        assert_eq!(fs::read(&target).unwrap(), b"all of it");
    }

    /// It has all values in the clear.
    #[cfg(unix)]
    #[test]
    fn what_lies_in_the_way_of_a_backup_neither_opens_it_to_others_nor_is_written_to() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (target, partial) = (dir.path().join("backup"), dir.path().join("backup.partial"));
        fs::write(&partial, "of a killed process").unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).unwrap();
        Partial::create(&target).unwrap().finish(&target).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&target).unwrap(), b"");

        let others = dir.path().join("others");
        fs::write(&others, "theirs").unwrap();
        symlink(&others, &partial).unwrap();
        let made = Partial::create(&target).unwrap();
        made.write(b"values").unwrap();
        made.finish(&target).unwrap();
        assert_eq!(fs::read(&others).unwrap(), b"theirs");
        assert_eq!(fs::read(&target).unwrap(), b"values");
    }

    #[test]
    fn two_that_are_written_at_a_time_never_end_up_in_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("backup");
        let first = Partial::create(&target).unwrap();
        first.write(b"first, and whole").unwrap();
        let second = Partial::create(&target).unwrap();
        second.write(b"second").unwrap();
        second.finish(&target).unwrap();
        first.write(b", and more").unwrap();
        assert!(first.finish(&target).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"second");
    }
}
