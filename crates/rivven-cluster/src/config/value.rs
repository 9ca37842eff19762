//! Kinds of values, each read from and written to text in one place.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use rivven_raft::{MemberRole, Replace};
use rivven_types::PeerAddr;

use super::document::{Content, Entry, Node};

/// Why a node is not a value: what more there is to say than "expected …, found …".
#[derive(Default)]
pub(super) struct Mistake {
    /// What to do about it.
    pub(super) help: Option<String>,
    /// The item of a list or the entry of a mapping that is wrong, from 0.
    pub(super) item: Option<usize>,
}

impl Mistake {
    /// Nothing more to say.
    pub(super) fn plain() -> Self {
        Self::default()
    }

    fn help(help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            item: None,
        }
    }
}

/// What a peer address looks like, for "expected …".
pub(super) const PEER_ADDRESS: &str = "an address such as \"node2:9093\"";

/// A value as YAML text.
pub(super) enum Written {
    /// Not set: leave the key out.
    Absent,
    /// A scalar, quoted if need be.
    Scalar(String),
    /// Scalars.
    List(Vec<String>),
    /// Keys, quoted if need be, with their scalars.
    Map(Vec<(String, String)>),
}

/// A kind of value.
pub(super) trait Value: Sized {
    /// What to write, for "expected …".
    fn expected() -> String;
    /// Reads it.
    fn read(node: &Node) -> Result<Self, Mistake>;
    /// Writes it.
    fn write(&self) -> Written;
}

/// Kind of network the nodes share; the source of timeouts that are not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine: elections in 150–300 ms, probes every 200 ms.
    Local,
    /// One data centre: elections in 500–1,000 ms, probes every second.
    ///
    /// The default, because a cloud disk that stalls for 200 ms is ordinary and must not cost an election.
    #[default]
    Lan,
    /// Several regions: elections in 2–4 s, probes every two seconds.
    Wan,
}

impl Profile {
    const ALL: [(&'static str, Self); 3] = [("local", Self::Local), ("lan", Self::Lan), ("wan", Self::Wan)];

    /// Least election timeout, and heartbeat interval.
    pub(super) const fn raft_ms(self) -> (u64, u64) {
        match self {
            Self::Local => (150, 50),
            Self::Lan => (500, 100),
            Self::Wan => (2_000, 400),
        }
    }

    /// Protocol period of gossip.
    pub(super) const fn period_ms(self) -> u64 {
        match self {
            Self::Local => 200,
            Self::Lan => 1_000,
            Self::Wan => 2_000,
        }
    }
}

macro_rules! whole_numbers {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn expected() -> String {
                format!("a whole number from 0 to {}", Self::MAX)
            }

            fn read(node: &Node) -> Result<Self, Mistake> {
                match &node.content {
                    Content::Int(value) => Self::try_from(*value).map_err(|_| Mistake::plain()),
                    Content::Untyped(text) => text.trim().parse().map_err(|_| Mistake::plain()),
                    Content::Text(text) if text.trim().parse::<Self>().is_ok() => {
                        Err(Mistake::help("remove the quotes"))
                    }
                    _ => Err(Mistake::plain()),
                }
            }

            fn write(&self) -> Written {
                Written::Scalar(self.to_string())
            }
        }
    )*};
}

whole_numbers!(u16, u32, u64);

impl Value for bool {
    fn expected() -> String {
        "`true` or `false`".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        match &node.content {
            Content::Bool(value) => Ok(*value),
            Content::Untyped(text) => text.trim().parse().map_err(|_| Mistake::plain()),
            _ => Err(Mistake::plain()),
        }
    }

    fn write(&self) -> Written {
        Written::Scalar(self.to_string())
    }
}

impl Value for String {
    fn expected() -> String {
        "text".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        text(node).map(str::to_owned)
    }

    fn write(&self) -> Written {
        Written::Scalar(quoted(self))
    }
}

impl Value for PathBuf {
    fn expected() -> String {
        "a path".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        text(node).map(Self::from)
    }

    fn write(&self) -> Written {
        Written::Scalar(quoted(&self.to_string_lossy()))
    }
}

impl Value for PeerAddr {
    fn expected() -> String {
        PEER_ADDRESS.into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        parsed(node)
    }

    fn write(&self) -> Written {
        Written::Scalar(quoted(&self.to_string()))
    }
}

impl Value for SocketAddr {
    fn expected() -> String {
        "an IP address and a port such as \"0.0.0.0:9093\"".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        text(node)?.trim().parse().map_err(|_| Mistake::plain())
    }

    fn write(&self) -> Written {
        Written::Scalar(quoted(&self.to_string()))
    }
}

impl Value for IpAddr {
    fn expected() -> String {
        "an IP address such as \"0.0.0.0\"".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        text(node)?.trim().parse().map_err(|_| Mistake::plain())
    }

    fn write(&self) -> Written {
        Written::Scalar(quoted(&self.to_string()))
    }
}

impl Value for Profile {
    fn expected() -> String {
        "`local`, `lan` or `wan`".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        let name = text(node)?.trim();
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, profile)| *profile).ok_or(Mistake::plain())
    }

    fn write(&self) -> Written {
        let name = Self::ALL.iter().find(|(_, profile)| profile == self);
        name.map_or(Written::Absent, |(name, _)| Written::Scalar((*name).into()))
    }
}

impl Value for MemberRole {
    fn expected() -> String {
        "`auto`, `voter` or `observer`".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        let name = text(node)?.trim();
        let known = [Self::Auto, Self::Voter, Self::Observer];
        let known = known.into_iter().find(|known| known.as_str() == name);
        known.ok_or(Mistake::plain())
    }

    fn write(&self) -> Written {
        Written::Scalar(self.as_str().into())
    }
}

impl Value for Replace {
    fn expected() -> String {
        "`refuse` or `auto`".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        let name = text(node)?.trim();
        let known = Self::ALL.into_iter().find(|known| known.as_str() == name);
        known.ok_or(Mistake::plain())
    }

    fn write(&self) -> Written {
        Written::Scalar(self.as_str().into())
    }
}

impl<T: Value> Value for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        match node.content {
            Content::Null => Ok(None),
            _ => T::read(node).map(Some),
        }
    }

    fn write(&self) -> Written {
        self.as_ref().map_or(Written::Absent, T::write)
    }
}

impl Value for Vec<PeerAddr> {
    fn expected() -> String {
        "a list of addresses such as [\"node2:9093\", \"node3:9093\"]".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        match &node.content {
            Content::Null => Ok(Self::new()),
            Content::List(items) => {
                let item = |(at, node)| {
                    parsed(node).map_err(|mistake| Mistake {
                        item: Some(at),
                        ..mistake
                    })
                };
                items.iter().enumerate().map(item).collect()
            }
            Content::Untyped(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(parse).collect()
            }
            Content::Text(_) => Err(Mistake::help("put the address in brackets: [\"node2:9093\"]")),
            _ => Err(Mistake::plain()),
        }
    }

    fn write(&self) -> Written {
        Written::List(self.iter().map(|addr| quoted(&addr.to_string())).collect())
    }
}

impl Value for BTreeMap<String, PeerAddr> {
    fn expected() -> String {
        "a mapping of names to addresses such as {client: \"node1.example.org:9092\"}".into()
    }

    fn read(node: &Node) -> Result<Self, Mistake> {
        match &node.content {
            Content::Null => Ok(Self::new()),
            Content::Map(entries) => {
                let mut map = Self::new();
                for (at, entry) in entries.iter().enumerate() {
                    let added = named(&mut map, entry);
                    added.map_err(|mistake| Mistake {
                        item: Some(at),
                        ..mistake
                    })?;
                }
                Ok(map)
            }
            Content::Untyped(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                let pair = |part: &str| match part.split_once('=') {
                    Some((name, addr)) => Ok((name.trim().to_owned(), parse(addr.trim())?)),
                    None => Err(Mistake::help("write name=host:port, with a comma between two")),
                };
                parts.map(pair).collect()
            }
            _ => Err(Mistake::plain()),
        }
    }

    fn write(&self) -> Written {
        let entries = self
            .iter()
            .map(|(name, addr)| (quoted(name), quoted(&addr.to_string())));
        Written::Map(entries.collect())
    }
}

/// Adds an address under its name.
fn named(map: &mut BTreeMap<String, PeerAddr>, entry: &Entry) -> Result<(), Mistake> {
    match map.insert(entry.key.clone(), parsed(&entry.node)?) {
        None => Ok(()),
        Some(_) => Err(Mistake::help("this name is given twice; remove one of the two")),
    }
}

pub(super) fn text(node: &Node) -> Result<&str, Mistake> {
    match &node.content {
        Content::Text(text) | Content::Untyped(text) => Ok(text),
        Content::Int(_) | Content::Float(_) | Content::Bool(_) => Err(Mistake::help("put it in quotes")),
        Content::Null | Content::List(_) | Content::Map(_) => Err(Mistake::plain()),
    }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(node: &Node) -> Result<T, Mistake> {
    parse(text(node)?.trim())
}

fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Mistake> {
    text.parse()
        .map_err(|error: T::Err| Mistake::help(error.to_string()))
}

/// Text in double quotes, escaped as YAML 1.2, section 5.7, has it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
