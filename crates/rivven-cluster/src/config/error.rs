//! A configuration mistake, shown where it was made.

use std::{fmt, path::Path, sync::Arc};

/// What is wrong with a configuration. Nothing was started or changed; correct it and try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The file is missing, not permitted, too long, or not UTF-8.
    Unreadable,
    /// The text is not YAML.
    Syntax,
    /// No setting has this name.
    UnknownKey,
    /// A setting is given twice in one mapping.
    DuplicateKey,
    /// The value is of another kind: text for a number, a list for an address.
    WrongType,
    /// The value is of the right kind, but cannot work by itself or beside the others.
    InvalidValue,
    /// A setting without a default is not given.
    MissingKey,
}

impl ConfigErrorKind {
    /// Stable code in kebab case.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "config-unreadable",
            Self::Syntax => "config-syntax",
            Self::UnknownKey => "config-unknown-key",
            Self::DuplicateKey => "config-duplicate-key",
            Self::WrongType => "config-wrong-type",
            Self::InvalidValue => "config-invalid-value",
            Self::MissingKey => "config-missing-key",
        }
    }
}

/// A configuration mistake. `Display` shows its place as a compiler would: line, column, caret, help.
#[derive(Clone, PartialEq)]
pub struct ConfigError(Box<Diagnostic>);

#[derive(Clone, Debug, PartialEq)]
struct Diagnostic {
    kind: ConfigErrorKind,
    message: String,
    place: Place,
    help: Vec<String>,
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// Nowhere, or nowhere in particular.
    Unknown,
    /// In a file: line and column count characters from 1.
    File {
        file: Arc<File>,
        line: usize,
        column: usize,
        width: usize,
    },
    /// An environment variable.
    Variable { name: String, value: String },
    /// A command-line flag or a call.
    Flag { name: String, value: String },
}

/// A configuration text and its name.
#[derive(Debug, PartialEq)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) text: String,
}

impl ConfigError {
    pub(super) fn new(kind: ConfigErrorKind, place: Place, message: impl Into<String>) -> Self {
        Self(Box::new(Diagnostic {
            kind,
            message: message.into(),
            place,
            help: Vec::new(),
        }))
    }

    pub(super) fn unreadable(path: &Path, cause: &dyn fmt::Display) -> Self {
        let message = format!("cannot read {}: {cause}", path.display());
        Self::new(ConfigErrorKind::Unreadable, Place::Unknown, message)
            .help("name an existing UTF-8 file that this user may read")
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help.push(help.into());
        self
    }

    /// What kind of mistake it is.
    #[must_use]
    pub fn kind(&self) -> ConfigErrorKind {
        self.0.kind
    }

    /// Stable code in kebab case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// Line and column in the file, counted in characters from 1, if the mistake is in a file.
    #[must_use]
    pub fn line_column(&self) -> Option<(usize, usize)> {
        match &self.0.place {
            Place::File { line, column, .. } => Some((*line, *column)),
            Place::Unknown | Place::Variable { .. } | Place::Flag { .. } => None,
        }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main() -> Result<(), Box<dyn Error>>` prints the `Debug` form, which people must be able to read.
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            message, place, help, ..
        } = &*self.0;
        write!(f, "{message} ({})", self.code())?;
        let mut gutter = 1;
        match place {
            Place::Unknown => {}
            Place::File {
                file,
                line,
                column,
                width,
            } => {
                gutter = line.to_string().len();
                write!(f, "\n{:gutter$}--> {}:{line}:{column}", "", file.name)?;
                write!(f, "\n{:gutter$} |", "")?;
                let excerpt = file.text.lines().nth(line.saturating_sub(1)).unwrap_or("");
                // A tab is one character to the parser but not to the eye.
                write!(f, "\n{line} | {}", excerpt.replace('\t', " "))?;
                let indent = column.saturating_sub(1);
                write!(
                    f,
                    "\n{:gutter$} | {:indent$}{}",
                    "",
                    "",
                    "^".repeat((*width).max(1))
                )?;
            }
            Place::Variable { name, value } => {
                write!(f, "\n --> environment variable {name}={value}")?;
            }
            Place::Flag { name, value } => write!(f, "\n --> {name} {value}")?,
        }
        for line in help {
            write!(f, "\n{:gutter$} = help: {line}", "")?;
        }
        Ok(())
    }
}
