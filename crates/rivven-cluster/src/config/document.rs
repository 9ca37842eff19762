//! Configuration text as a tree whose every node knows where it stands.

use std::{fmt, sync::Arc};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::{
    ConfigError, ConfigErrorKind,
    error::{File, Place},
};

/// A tree of settings from one source.
pub(super) struct Document {
    pub(super) root: Node,
}

/// One value and its place.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

/// What a node holds.
pub(super) enum Content {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// Text from the environment or a flag, whose type the reader decides.
    Untyped(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, its place, and its value.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Document {
    /// Parses YAML.
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let file = Arc::new(File {
            name: origin.to_owned(),
            text: text.to_owned(),
        });
        // Duplicates are let through and reported by the reader, which names both places.
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            with_snippet: false,
            strict_booleans: true,
        };
        let parsed: Result<Spanned<Tree>, _> = serde_saphyr::from_str_with_options(text, options);
        match parsed {
            Ok(tree) => Ok(Self {
                root: located(tree, &file),
            }),
            Err(serde_saphyr::Error::Eof { .. }) => Ok(Self {
                root: Node {
                    place: Place::Unknown,
                    content: Content::Null,
                },
            }),
            Err(error) => {
                let place = error
                    .location()
                    .map_or(Place::Unknown, |location| place(location, &file));
                let message = without_position(&error.without_snippet().to_string());
                Err(ConfigError::new(ConfigErrorKind::Syntax, place, message))
            }
        }
    }

    /// One setting from the environment.
    pub(super) fn variable(path: &str, name: &str, value: &str) -> Self {
        let place = Place::Variable {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        Self::single(path, &place, value)
    }

    /// One setting from a flag or a call.
    pub(super) fn flag(path: &str, name: &str, value: &str) -> Self {
        let place = Place::Flag {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        Self::single(path, &place, value)
    }

    fn single(path: &str, place: &Place, value: &str) -> Self {
        let leaf = Node {
            place: place.clone(),
            content: Content::Untyped(value.to_owned()),
        };
        let root = path.rsplit('.').fold(leaf, |node, key| Node {
            place: place.clone(),
            content: Content::Map(vec![Entry {
                key: key.to_owned(),
                place: place.clone(),
                node,
            }]),
        });
        Self { root }
    }
}

impl Content {
    /// What it is, for "expected …, found …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) | Self::Untyped(text) => format!("the text {text:?}"),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// The message of a parser error ends in its position, which the excerpt already shows.
fn without_position(message: &str) -> String {
    let message = message.lines().next().unwrap_or(message);
    let end = message.find(" at line ").unwrap_or(message.len());
    let message = message.get(..end).unwrap_or(message);
    message
        .trim_start_matches("error: ")
        .trim_end_matches(',')
        .to_owned()
}

fn place(location: Location, file: &Arc<File>) -> Place {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let (line, column) = (number(location.line()), number(location.column()));
    if line == 0 {
        return Place::Unknown;
    }
    let excerpt = file.text.lines().nth(line - 1).unwrap_or("");
    // A value over several lines is marked to the end of its first.
    let rest = excerpt.chars().count().saturating_sub(column - 1);
    let width = number(location.span().len()).clamp(1, rest.max(1));
    let file = Arc::clone(file);
    Place::File {
        file,
        line,
        column,
        width,
    }
}

fn located(tree: Spanned<Tree>, file: &Arc<File>) -> Node {
    let content = match tree.value {
        Tree::Null => Content::Null,
        Tree::Bool(value) => Content::Bool(value),
        Tree::Int(value) => Content::Int(value),
        Tree::Float(value) => Content::Float(value),
        Tree::Text(text) => Content::Text(text),
        Tree::List(items) => Content::List(items.into_iter().map(|item| located(item, file)).collect()),
        Tree::Map(entries) => {
            let entry = |(key, value): (Spanned<String>, Spanned<Tree>)| Entry {
                place: place(key.referenced, file),
                key: key.value,
                node: located(value, file),
            };
            Content::Map(entries.into_iter().map(entry).collect())
        }
    };
    Node {
        place: place(tree.referenced, file),
        content,
    }
}

/// What serde sees: like [`Content`], with positions still in the parser's terms.
enum Tree {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }
}
