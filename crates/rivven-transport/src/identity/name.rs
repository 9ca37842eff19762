//! The name in a certificate, `rivven://<cluster>/<role>/<id>`, and other ways to write it.

use std::{fmt, str::FromStr};

use rivven_types::{ClusterId, NodeId};
use rustls_pki_types::CertificateDer;

use super::{Role, Subject};

const SCHEME: &str = "rivven://";

/// Longest template of a name.
const MAX_TEMPLATE: usize = 200;

/// What a template must hold, each once.
const PLACEHOLDERS: [&str; 3] = ["{cluster}", "{role}", "{id}"];

/// Who a certificate speaks for, and in which cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateName {
    /// The cluster.
    pub cluster: ClusterId,
    /// The holder.
    pub subject: Subject,
}

/// The name of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// The text is no name in its one canonical spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name; expected rivven://<cluster id>/<node|observer|operator|client>/<id>")]
pub struct ParseNameError;

impl From<NodeName> for CertificateName {
    fn from(name: NodeName) -> Self {
        Self {
            cluster: name.cluster,
            subject: Subject::Node(name.node),
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CertificateName::from(*self).fmt(f)
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&SanTemplate::default().render(self))
    }
}

impl FromStr for CertificateName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        SanTemplate::default().parse(text)
    }
}

/// How names are written as the URI of a certificate's subject alternative name.
///
/// The default is `rivven://{cluster}/{role}/{id}`. Where certificates come from elsewhere they may follow
/// another scheme, such as SPIFFE: `spiffe://example.org/rivven/{cluster}/{role}/{id}`. All nodes of a
/// cluster use one template: a certificate that follows another one names nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SanTemplate {
    text: String,
    /// What stands before the first placeholder, and tells our names from others.
    prefix: String,
}

/// The text cannot serve as a template. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a template of names: write a URI of at most 200 characters that holds {{cluster}}, {{role}} and {{id}} \
     once each, every one a whole segment between slashes, as in rivven://{{cluster}}/{{role}}/{{id}} or \
     spiffe://example.org/rivven/{{cluster}}/{{role}}/{{id}}"
)]
pub struct SanTemplateError;

impl SanTemplateError {
    /// Stable code in kebab case, listed in `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "bad-san-template"
    }
}

impl Default for SanTemplate {
    fn default() -> Self {
        Self {
            text: format!("{SCHEME}{{cluster}}/{{role}}/{{id}}"),
            prefix: SCHEME.into(),
        }
    }
}

impl fmt::Display for SanTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SanTemplate {
    type Err = SanTemplateError;

    fn from_str(text: &str) -> Result<Self, SanTemplateError> {
        let (scheme, path) = text.split_once("://").ok_or(SanTemplateError)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fixed = |segment: &str| !segment.is_empty() && segment.bytes().all(known);
        let good = |segment: &str| PLACEHOLDERS.contains(&segment) || fixed(segment);
        let once = |placeholder: &&str| path.split('/').filter(|part| part == placeholder).count() == 1;
        // Whole segments only: no value holds a slash, so a name can be taken apart in one way only.
        let valid = text.len() <= MAX_TEMPLATE
            && fixed(scheme)
            && path.split('/').all(good)
            && PLACEHOLDERS.iter().all(once);
        let prefix = text.split('{').next().filter(|_| valid).ok_or(SanTemplateError)?;
        Ok(Self {
            text: text.into(),
            prefix: prefix.into(),
        })
    }
}

impl SanTemplate {
    /// The URI of `name`.
    #[must_use]
    pub fn render(&self, name: &CertificateName) -> String {
        let cluster = name.cluster.to_string();
        let id = name.subject.id();
        let segments = self.text.split('/').map(|segment| match segment {
            "{cluster}" => cluster.as_str(),
            "{role}" => name.subject.role().as_str(),
            "{id}" => id.as_str(),
            fixed => fixed,
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// The name that [`Self::render`] wrote as `uri`, in its one spelling.
    ///
    /// # Errors
    /// [`ParseNameError`].
    pub fn parse(&self, uri: &str) -> Result<CertificateName, ParseNameError> {
        let (mut cluster, mut role, mut id) = (None, None, None);
        let (mut expected, mut found) = (self.text.split('/'), uri.split('/'));
        loop {
            match (expected.next(), found.next()) {
                (Some("{cluster}"), Some(text)) => cluster = text.parse::<ClusterId>().ok(),
                (Some("{role}"), Some(text)) => role = text.parse::<Role>().ok(),
                (Some("{id}"), Some(text)) => id = Some(text),
                (Some(fixed), Some(text)) if fixed == text => {}
                (None, None) => break,
                _ => return Err(ParseNameError),
            }
        }
        let (Some(cluster), Some(role), Some(id)) = (cluster, role, id) else {
            return Err(ParseNameError);
        };
        let subject = Subject::parse(role, id)?;
        let name = CertificateName { cluster, subject };
        // One name, one spelling: upper-case digits in the cluster id are refused.
        if self.render(&name) == uri {
            Ok(name)
        } else {
            Err(ParseNameError)
        }
    }

    /// The name in a certificate, which must have exactly one URI that begins like this template.
    ///
    /// Says nothing of whether the certificate is to be believed.
    pub(crate) fn name_of(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> Result<CertificateName, ParseNameError> {
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| ParseNameError)?;
        let mut names = certificate
            .valid_uri_names()
            .filter(|uri| uri.starts_with(&self.prefix));
        match (names.next(), names.next()) {
            (Some(name), None) => self.parse(name),
            _ => Err(ParseNameError),
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
    use super::{super::Label, *};

    fn name(subject: Subject) -> CertificateName {
        CertificateName {
            cluster: ClusterId::from_bytes([0xab; 16]),
            subject,
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        let node = name(Subject::Node(7));
        let text = node.to_string();
        assert_eq!(text, "rivven://abababab-abab-abab-abab-abababababab/node/7");
        assert_eq!(text.parse(), Ok(node));
        for wrong in [
            text.replace("node/7", "node/07"),
            text.replace("node/7", "node/+7"),
            text.replace("node/7", "node/"),
            text.replace("node/7", "ca/7"),
            text.replace("node/7", "client/A"),
            text.replace('a', "A"),
            text.replace('-', ""),
            text.replace("rivven", "spiffe"),
            format!("{text}/x"),
        ] {
            assert_eq!(wrong.parse::<CertificateName>(), Err(ParseNameError), "{wrong}");
        }
    }

    #[test]
    fn every_role_survives_every_template() {
        let label = Label::new("back-up.2").unwrap();
        for template in [
            "rivven://{cluster}/{role}/{id}",
            "spiffe://example.org/rivven/{cluster}/{role}/{id}",
            "spiffe://example.org/{role}/of/{cluster}/x/{id}/end",
        ] {
            let template: SanTemplate = template.parse().unwrap();
            for subject in [
                Subject::Node(7),
                Subject::Observer(8),
                Subject::Operator(label.clone()),
                Subject::Client(label.clone()),
            ] {
                let name = name(subject);
                assert_eq!(template.parse(&template.render(&name)), Ok(name));
            }
        }
    }

    #[test]
    fn templates_that_cannot_be_taken_apart_are_refused() {
        for wrong in [
            "",
            "rivven",
            "rivven://{cluster}/{role}",
            "rivven://{cluster}/{role}/{id}/{id}",
            "rivven://{cluster}/{role}-{id}",
            "rivven://{cluster}/{role}/{id}/{zone}",
            "rivven://{cluster}//{role}/{id}",
            "{cluster}://{role}/{id}",
            "rivven://{cluster}/{role}/{id}/ä",
        ] {
            assert_eq!(wrong.parse::<SanTemplate>(), Err(SanTemplateError), "{wrong}");
        }
    }
}
