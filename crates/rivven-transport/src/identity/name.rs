//! The name in a certificate: `rivven://<cluster>/node/<id>`.

use std::{fmt, str::FromStr};

use rivven_types::{ClusterId, NodeId};
use rustls_pki_types::CertificateDer;

const SCHEME: &str = "rivven://";

/// Which node of which cluster a certificate speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// The text is not `rivven://<cluster id>/node/<node id>` in its one canonical spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node name; expected rivven://<cluster id>/node/<node id>")]
pub struct ParseNodeNameError;

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/node/{}", self.cluster, self.node)
    }
}

impl FromStr for NodeName {
    type Err = ParseNodeNameError;

    fn from_str(text: &str) -> Result<Self, ParseNodeNameError> {
        let rest = text.strip_prefix(SCHEME).ok_or(ParseNodeNameError)?;
        let (cluster, node) = rest.split_once("/node/").ok_or(ParseNodeNameError)?;
        let name = Self {
            cluster: cluster.parse().map_err(|_| ParseNodeNameError)?,
            node: node.parse().map_err(|_| ParseNodeNameError)?,
        };
        // One name, one spelling: `+1`, `01` and upper-case digits are refused.
        if name.to_string() == text {
            Ok(name)
        } else {
            Err(ParseNodeNameError)
        }
    }
}

impl NodeName {
    /// The name in a certificate, which must have exactly one of our names.
    ///
    /// Says nothing of whether the certificate is to be believed.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, ParseNodeNameError> {
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| ParseNodeNameError)?;
        let mut names = certificate
            .valid_uri_names()
            .filter(|uri| uri.starts_with(SCHEME));
        match (names.next(), names.next()) {
            (Some(name), None) => name.parse(),
            _ => Err(ParseNodeNameError),
        }
    }
}

/// The name of a cluster's certificate authority.
pub(super) fn authority_uri(cluster: ClusterId) -> String {
    format!("{SCHEME}{cluster}/ca")
}

/// The cluster of an [`authority_uri`].
pub(super) fn authority_cluster(uri: &str) -> Option<ClusterId> {
    uri.strip_prefix(SCHEME)?.strip_suffix("/ca")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        let name = NodeName {
            cluster: ClusterId::from_bytes([0xab; 16]),
            node: 7,
        };
        let text = name.to_string();
        assert_eq!(text, "rivven://abababab-abab-abab-abab-abababababab/node/7");
        assert_eq!(text.parse(), Ok(name));
        for wrong in [
            text.replace("node/7", "node/07"),
            text.replace("node/7", "node/+7"),
            text.replace("node/7", "node/"),
            text.replace('a', "A"),
            text.replace('-', ""),
            text.replace("rivven", "spiffe"),
            format!("{text}/x"),
        ] {
            assert_eq!(wrong.parse::<NodeName>(), Err(ParseNodeNameError), "{wrong}");
        }
    }
}
