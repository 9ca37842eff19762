//! Changes of who belongs to the cluster, as requests.

use std::time::Duration;

use hyper::Method;
use rivven_cluster::NodeId;

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAsk {
    /// The node it is about.
    pub node: NodeId,
    /// What is to become of it.
    pub action: MemberAction,
    /// Why to go on where it costs what it should not.
    pub force: Option<String>,
    /// How long the node that is asked waits for the end of the change; at most a minute.
    pub wait: Duration,
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAction {
    /// It may join, with this role (`auto`, `voter` or `observer`) if one is given.
    Add {
        /// The role, in place of the one in its own configuration.
        role: Option<&'static str>,
    },
    /// It leaves for good.
    Remove,
    /// Its lost data directory is given up.
    Replace,
    /// It votes.
    Promote,
    /// It observes.
    Demote,
}

impl MemberAsk {
    /// Method, path and query.
    pub(super) fn request(&self, plan: bool) -> (Method, String) {
        let (method, action) = match self.action {
            MemberAction::Add { .. } => (Method::POST, ""),
            MemberAction::Remove => (Method::DELETE, ""),
            MemberAction::Replace => (Method::POST, "/replace"),
            MemberAction::Promote => (Method::POST, "/promote"),
            MemberAction::Demote => (Method::POST, "/demote"),
        };
        let mut path = format!(
            "/v1/members/{}{action}?plan={plan}&wait_ms={}",
            self.node,
            self.wait.as_millis()
        );
        if let MemberAction::Add { role: Some(role) } = self.action {
            path.push_str("&role=");
            path.push_str(role);
        }
        if let Some(reason) = &self.force {
            path.push_str("&force=");
            path.push_str(&percent_encoded(reason));
        }
        (method, path)
    }
}

/// Text as it stands in a query (RFC 3986, section 2.1).
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_travels_as_it_was_written() {
        let ask = MemberAsk {
            node: 4,
            action: MemberAction::Remove,
            force: Some("sold & gone, 50 %é".into()),
            wait: Duration::from_secs(5),
        };
        let (method, path) = ask.request(false);
        assert_eq!(method, Method::DELETE);
        assert_eq!(
            path,
            "/v1/members/4?plan=false&wait_ms=5000&force=sold%20%26%20gone%2C%2050%20%25%C3%A9"
        );
        let action = MemberAction::Add {
            role: Some("observer"),
        };
        let (method, path) = MemberAsk {
            action,
            force: None,
            ..ask
        }
        .request(true);
        assert_eq!(method, Method::POST);
        assert_eq!(path, "/v1/members/4?plan=true&wait_ms=5000&role=observer");
    }
}
