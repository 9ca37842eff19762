//! Who a certificate speaks for, and what that lets it call.

use std::{fmt, str::FromStr};

use rivven_types::NodeId;

use super::ParseNameError;

/// Longest name of a client or operator.
pub const MAX_LABEL: usize = 64;

/// What the holder of a certificate is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A member: takes part in everything.
    Node,
    /// A member that learns and never decides.
    Observer,
    /// A person or program that runs the cluster.
    Operator,
    /// A program that uses the cluster.
    Client,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Node, Self::Observer, Self::Operator, Self::Client];

    /// Whether it is a member, which peers may dial; operators and clients only dial.
    #[must_use]
    pub const fn is_member(self) -> bool {
        matches!(self, Self::Node | Self::Observer)
    }

    /// The word in a certificate.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Observer => "observer",
            Self::Operator => "operator",
            Self::Client => "client",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Node => 1,
            Self::Observer => 2,
            Self::Operator => 4,
            Self::Client => 8,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or(ParseNameError)
    }
}

/// A set of roles, such as those that may call a method.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Nodes alone.
    pub const NODE: Self = Self::of(&[Role::Node]);

    /// Every role.
    pub const ANY: Self = Self::of(&Role::ALL);

    /// The roles in `roles`.
    #[must_use]
    pub const fn of(roles: &[Role]) -> Self {
        let mut bits = 0;
        let mut rest = roles;
        while let [role, tail @ ..] = rest {
            bits |= role.bit();
            rest = tail;
        }
        Self(bits)
    }

    /// Whether `role` is one of them.
    #[must_use]
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = Role::ALL.into_iter().filter(|role| self.contains(*role));
        f.debug_set().entries(roles).finish()
    }
}

/// Name of a client or operator: 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(String);

impl Label {
    /// The name `text`.
    ///
    /// # Errors
    /// [`ParseNameError`] when it is empty, too long, or has other characters.
    pub fn new(text: &str) -> Result<Self, ParseNameError> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if text.is_empty() || text.len() > MAX_LABEL || !text.bytes().all(known) {
            return Err(ParseNameError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// See [`Role::Node`].
    Node(NodeId),
    /// See [`Role::Observer`]; its id is of the same range as those of nodes.
    Observer(NodeId),
    /// See [`Role::Operator`].
    Operator(Label),
    /// See [`Role::Client`].
    Client(Label),
}

impl Subject {
    /// Its role.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Node(_) => Role::Node,
            Self::Observer(_) => Role::Observer,
            Self::Operator(_) => Role::Operator,
            Self::Client(_) => Role::Client,
        }
    }

    /// Its node id; 0, which is no node's, for operators and clients.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Node(node) | Self::Observer(node) => *node,
            Self::Operator(_) | Self::Client(_) => 0,
        }
    }

    /// Whether it is a member, which peers may dial; operators and clients only dial.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        self.role().is_member()
    }

    /// The part of its name after the role.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Node(node) | Self::Observer(node) => node.to_string(),
            Self::Operator(label) | Self::Client(label) => label.to_string(),
        }
    }

    /// The subject of `role` that [`Self::id`] wrote as `id`, in its one spelling.
    pub(super) fn parse(role: Role, id: &str) -> Result<Self, ParseNameError> {
        let node = || {
            let node: NodeId = id.parse().map_err(|_| ParseNameError)?;
            // One name, one spelling: `+1` and `01` are refused.
            if node.to_string() == id {
                Ok(node)
            } else {
                Err(ParseNameError)
            }
        };
        match role {
            Role::Node => node().map(Self::Node),
            Role::Observer => node().map(Self::Observer),
            Role::Operator => Label::new(id).map(Self::Operator),
            Role::Client => Label::new(id).map(Self::Client),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role(), self.id())
    }
}
