//! How a command fails: a stable code, a cause, a remedy, an exit code.

use std::{fmt, io, process::ExitCode};

use rivven_cluster::ConfigError;
use rivven_transport::identity::IdentityError;

use crate::client::ClientError;

/// Who has to act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// What the command was told: arguments, configuration, certificates. Exit code 2.
    Usage,
    /// What it met: ports, disks, other processes and nodes. Exit code 1.
    World,
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: String,
    cause: String,
    help: Option<String>,
    blame: Blame,
}

impl Failure {
    /// `message` is "cause; remedy", the form in which every error type of this workspace speaks.
    pub(crate) fn new(blame: Blame, code: impl Into<String>, message: impl fmt::Display) -> Self {
        let (code, message) = (code.into(), message.to_string());
        // What was refused ends with its code, which leads here.
        let message = message
            .strip_suffix(&format!(" ({code})"))
            .map_or(message.clone(), str::to_owned);
        let (cause, help) = match message.split_once("; ") {
            Some((cause, help)) => (cause.to_owned(), Some(help.to_owned())),
            None => (message, None),
        };
        Self {
            code,
            cause,
            help,
            blame,
        }
    }

    pub(crate) fn usage(code: &str, message: impl fmt::Display) -> Self {
        Self::new(Blame::Usage, code, message)
    }

    pub(crate) fn world(code: &str, message: impl fmt::Display) -> Self {
        Self::new(Blame::World, code, message)
    }

    /// A failure of something that has no code of its own, with every cause of it.
    pub(crate) fn other(error: &anyhow::Error) -> Self {
        Self {
            code: "failed".into(),
            cause: format!("{error:#}"),
            help: None,
            blame: Blame::World,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.blame {
            Blame::Usage => ExitCode::from(2),
            Blame::World => ExitCode::from(1),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.cause)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        // The text shows the place over several lines and its code in the first; here the code leads.
        let code = error.code();
        let cause = error.to_string().replacen(&format!(" ({code})"), "", 1);
        Self {
            code: code.to_owned(),
            cause,
            help: None,
            blame: Blame::Usage,
        }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(Blame::Usage, error.code(), error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = error.code().to_owned();
        let mut failure = Self::new(Blame::World, code, &error);
        match error {
            ClientError::Refused { body, .. } => {
                failure.cause = body.message;
                failure.help = Some(body.remedy);
            }
            ClientError::Unreachable { .. } => {
                failure.help =
                    Some("check that the node runs, and name its admin address with --admin".into());
            }
            ClientError::NoAnswer { .. } | ClientError::NotUnderstood { .. } => {}
        }
        failure
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::world("io", error)
    }
}

#[cfg(test)]
mod tests {
    use rivven_cluster::ClusterConfig;

    use super::*;

    #[test]
    fn cause_and_remedy_stand_on_lines_of_their_own() {
        let failure = Failure::world("port-in-use", "the port is taken; choose another; or wait");
        let text = "error[port-in-use]: the port is taken\n  help: choose another; or wait";
        assert_eq!(failure.to_string(), text);
    }

    #[test]
    fn a_code_is_shown_once() {
        let failure = Failure::world(
            "empty-key",
            "the write was refused: the key is empty; name it (empty-key)",
        );
        let text = "error[empty-key]: the write was refused: the key is empty\n  help: name it";
        assert_eq!(failure.to_string(), text);
    }

    #[test]
    fn a_configuration_mistake_keeps_its_place() {
        let error = ClusterConfig::from_yaml_str("cluster: { node_idd: 1 }", "n.yaml").unwrap_err();
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("error[config-unknown-key]: "), "{text}");
        assert!(text.contains("n.yaml:1:12") && text.contains("node_id"), "{text}");
    }
}
