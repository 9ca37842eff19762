//! Settings from a document, and what was wrong with it.

use std::collections::BTreeMap;

use super::{
    ConfigError, ConfigErrorKind,
    document::{Content, Document, Entry, Node},
    error::Place,
    schema::{self, Visit},
    value::{Mistake, PEER_ADDRESS, Value},
};

/// Where each setting was set, by full path.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<String, Place>);

/// Two configurations that say the same are equal, wherever it was said.
impl PartialEq for Origins {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Origins {
    /// Where the setting at `path` was set.
    pub(super) fn place(&self, path: &str) -> Place {
        let list = path.split_once('[').map_or(path, |(list, _)| list);
        // Whatever a mapping lacks or has wrong belongs to the mapping.
        let mapping = path.rsplit_once('.').map_or(path, |(mapping, _)| mapping);
        let place = self.0.get(path).or_else(|| self.0.get(list));
        let place = place.or_else(|| self.0.get(mapping));
        place.cloned().unwrap_or(Place::Unknown)
    }
}

/// Walks the schema and takes what the document has for each key.
pub(super) struct Reader {
    frames: Vec<Frame>,
    origins: Origins,
}

/// One mapping that is being read.
struct Frame {
    path: String,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl Reader {
    pub(super) fn new(document: Document, origins: Origins) -> Self {
        // A root that is no mapping becomes the value of an impossible key, so that it is reported below
        // like any other mistake.
        let entries = match document.root.content {
            Content::Map(entries) => entries,
            Content::Null => Vec::new(),
            content => vec![Entry {
                key: String::new(),
                place: document.root.place.clone(),
                node: Node {
                    place: document.root.place,
                    content,
                },
            }],
        };
        let root = Frame {
            path: String::new(),
            entries,
            known: Vec::new(),
        };
        Self {
            frames: vec![root],
            origins,
        }
    }

    /// Reports what was not read; gives back where the rest came from.
    pub(super) fn finish(mut self) -> Result<Origins, ConfigError> {
        while let Some(frame) = self.frames.pop() {
            frame.finish()?;
        }
        Ok(self.origins)
    }

    fn take(&mut self, key: &'static str) -> Result<Option<Node>, ConfigError> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(None);
        };
        frame.known.push(key);
        let Some(at) = frame.entries.iter().position(|entry| entry.key == key) else {
            return Ok(None);
        };
        let first = frame.entries.remove(at);
        if let Some(second) = frame.entries.iter().find(|entry| entry.key == key) {
            return Err(duplicate(&first, second));
        }
        Ok(Some(first.node))
    }

    fn path(&self, key: &str) -> String {
        self.frames
            .last()
            .map_or_else(String::new, |frame| frame.child(key))
    }
}

impl Visit for Reader {
    fn field<T: Value>(&mut self, key: &'static str, value: &mut T) -> Result<(), ConfigError> {
        if let Some(node) = self.take(key)? {
            let path = self.path(key);
            *value = T::read(&node).map_err(|mistake| mistaken::<T>(&path, &node, mistake))?;
            let (item_prefix, entry_prefix) = (format!("{path}["), format!("{path}."));
            self.origins
                .0
                .retain(|origin, _| !origin.starts_with(&item_prefix) && !origin.starts_with(&entry_prefix));
            for (part, node) in parts(&path, &node) {
                self.origins.0.insert(part, node.place.clone());
            }
            self.origins.0.insert(path, node.place);
        }
        Ok(())
    }

    fn section(
        &mut self,
        key: &'static str,
        fields: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let path = self.path(key);
        let entries = match self.take(key)? {
            None => Vec::new(),
            Some(node) => match node.content {
                Content::Map(entries) => entries,
                Content::Null => Vec::new(),
                _ => return Err(wrong_type(&path, &node, "a mapping of settings")),
            },
        };
        self.frames.push(Frame {
            path,
            entries,
            known: Vec::new(),
        });
        fields(self)?;
        self.frames.pop().map_or(Ok(()), Frame::finish)
    }
}

impl Frame {
    fn child(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// What nobody asked for is a mistake.
    fn finish(self) -> Result<(), ConfigError> {
        let Some(entry) = self.entries.first() else {
            return Ok(());
        };
        if entry.key.is_empty() && self.path.is_empty() {
            return Err(wrong_type(
                "the configuration",
                &entry.node,
                "a mapping with the key `cluster`",
            ));
        }
        let within = if self.path.is_empty() {
            "at the top of the file".to_owned()
        } else {
            format!("in `{}`", self.path)
        };
        let message = format!("unknown key `{}` {within}", entry.key);
        let error = ConfigError::new(ConfigErrorKind::UnknownKey, entry.place.clone(), message);
        Err(match suggestion(&entry.key, &self.known) {
            Some(help) => error.help(help),
            None => error,
        }
        .help(format!("known keys here: {}", self.known.join(", "))))
    }
}

fn duplicate(first: &Entry, second: &Entry) -> ConfigError {
    let message = format!("`{}` is given twice", first.key);
    let error = ConfigError::new(ConfigErrorKind::DuplicateKey, second.place.clone(), message);
    match &first.place {
        Place::File { line, column, .. } => error.help(format!(
            "it is given at {line}:{column} already; remove one of the two"
        )),
        Place::Unknown | Place::Variable { .. } | Place::Flag { .. } => error.help("remove one of the two"),
    }
}

/// What a value consists of, if it is a list or a mapping, each with its path.
fn parts<'a>(path: &str, node: &'a Node) -> Vec<(String, &'a Node)> {
    match &node.content {
        Content::List(items) => {
            let items = items.iter().enumerate();
            items.map(|(at, item)| (format!("{path}[{at}]"), item)).collect()
        }
        Content::Map(entries) => {
            let entries = entries.iter();
            entries
                .map(|entry| (format!("{path}.{}", entry.key), &entry.node))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The mistake, at the part that has it if it is in a list or a mapping.
fn mistaken<T: Value>(path: &str, node: &Node, mistake: Mistake) -> ConfigError {
    let part = mistake.item.and_then(|at| parts(path, node).into_iter().nth(at));
    let error = match part {
        Some((path, part)) => wrong_type(&path, part, PEER_ADDRESS),
        None => wrong_type(path, node, &T::expected()),
    };
    match mistake.help {
        Some(help) => error.help(help),
        None => error,
    }
}

fn wrong_type(path: &str, node: &Node, expected: &str) -> ConfigError {
    let message = format!("`{path}`: expected {expected}, found {}", node.content.describe());
    ConfigError::new(ConfigErrorKind::WrongType, node.place.clone(), message)
}

/// The known key that was probably meant: here by its spelling, or elsewhere by its name.
fn suggestion(key: &str, known: &[&'static str]) -> Option<String> {
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(key, name), name))
        .min();
    // A third of the letters may be wrong: more than that is another word.
    if let Some((distance, name)) = nearest
        && distance <= (key.len() / 3).max(1)
    {
        return Some(format!("did you mean `{name}`?"));
    }
    let elsewhere = schema::all_paths()
        .into_iter()
        .find(|path| path.rsplit('.').next() == Some(key))?;
    let section = elsewhere.rsplit_once('.').map_or("", |(section, _)| section);
    Some(format!("`{key}` belongs in `{section}`"))
}
