//! How certificates stay valid, and who issues them.

use std::path::PathBuf;

use rivven_transport::identity::SanTemplate;

use super::{
    document::Node,
    value::{Mistake, Value, Written, text},
};

/// Whether a node asks for a new certificate by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renewal {
    /// At two thirds of its certificate's life, of whichever member issues. One whose certificate has expired
    /// starts all the same, for up to a year, and can do nothing but have it renewed.
    #[default]
    Automatic,
    /// Never: the files are replaced by somebody else, and a node with an expired certificate does not start.
    Manual,
}

impl Renewal {
    const ALL: [(&'static str, Self); 2] = [("automatic", Self::Automatic), ("manual", Self::Manual)];
}

impl Value for Renewal {
    fn expected() -> String {
        "`automatic` or `manual`".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        let name = text(node)?.trim();
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, renewal)| *renewal).ok_or(Mistake::plain())
    }

    fn write(&self) -> Written {
        let name = Self::ALL.iter().find(|(_, renewal)| renewal == self);
        name.map_or(Written::Absent, |(name, _)| Written::Scalar((*name).into()))
    }
}

/// Certificates while the node runs.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSection {
    /// How certificates name their holders: the URI of the subject alternative name, with `{cluster}`, `{role}` and
    /// `{id}` as whole segments. Default `rivven://{cluster}/{role}/{id}`; with SPIFFE, for instance,
    /// `spiffe://example.org/rivven/{cluster}/{role}/{id}`.
    ///
    /// The same on all nodes: a certificate that follows another one names nobody. To change it, make a new
    /// certificate for every node, and restart them all with it.
    pub name_template: String,
    /// Whether this node has its certificate renewed. Default [`Renewal::Automatic`].
    pub renewal: Renewal,
    /// What makes this node an issuer of certificates.
    pub issuer: IssuerSection,
}

impl Default for TlsSection {
    fn default() -> Self {
        Self {
            name_template: SanTemplate::default().to_string(),
            renewal: Renewal::default(),
            issuer: IssuerSection::default(),
        }
    }
}

/// What makes a node an issuer: it renews the certificates of members, and lets nodes join with a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssuerSection {
    /// The authority's private key, `ca.key` of `cert init`, mode 600. Default: none, and no issuer.
    ///
    /// Whoever reads it can become any node: give it to one or two nodes, not to all.
    pub ca_key: Option<PathBuf>,
    /// Days that a certificate issued here lives, 1 to 365. Default 30. Only with `ca_key`.
    ///
    /// It is renewed after two thirds of them: the last third is how long all issuers may be away.
    pub certificate_life_days: Option<u64>,
}
