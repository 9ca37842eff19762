//! Files that hold secrets: written with mode 600, refused when others can read them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use zeroize::Zeroizing;

/// Longest file this crate reads: a bundle of a few certificates, or a key.
pub(crate) const MAX_FILE_LEN: u64 = 64 << 10;

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The operating system refused.
    Io(io::Error),
    /// Others than the owner can read or write the file.
    Exposed,
    /// The file is longer than [`MAX_FILE_LEN`].
    TooLong,
    /// The file is not text.
    NotText,
}

/// The text of a file that nobody but its owner may read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, ReadError> {
    let file = File::open(path).map_err(ReadError::Io)?;
    if is_exposed(&file.metadata().map_err(ReadError::Io)?) {
        return Err(ReadError::Exposed);
    }
    read(file)
}

/// The text of a file that anybody may read.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, ReadError> {
    read(File::open(path).map_err(ReadError::Io)?)
}

fn read(file: File) -> Result<Zeroizing<String>, ReadError> {
    let len = file.metadata().map_err(ReadError::Io)?.len();
    if len > MAX_FILE_LEN {
        return Err(ReadError::TooLong);
    }
    // Sized up front, so that no unwiped copy of a secret is left behind by growing.
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).map_err(|_| ReadError::TooLong)?]);
    let mut file = file.take(len);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(ReadError::Io)? {
            0 => break,
            count => filled += count,
        }
    }
    let text = std::str::from_utf8(bytes.get(..filled).unwrap_or_default());
    text.map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| ReadError::NotText)
}

/// Writes a file that nobody but its owner may read. An existing file is never replaced.
pub(crate) fn create_secret(path: &Path, text: &str) -> io::Result<()> {
    create(path, text, 0o600)
}

/// Writes a file that anybody may read. An existing file is never replaced.
pub(crate) fn create_text(path: &Path, text: &str) -> io::Result<()> {
    create(path, text, 0o644)
}

/// Writes a file that anybody may read in place of an earlier one: after a crash it is the one or the other.
pub(crate) fn replace_text(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, 0o644)
}

/// [`replace_text`] for a file that nobody but its owner may read.
pub(crate) fn replace_secret(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, 0o600)
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    // What an interrupted attempt has left behind is not wanted.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    create(new, text, mode)?;
    fs::rename(new, path)?;
    sync_parent(path)
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    restrict(&mut options, mode);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_parent(path)
}

/// Makes the creation of `path` itself durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if cfg!(unix) && !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Creates a directory that nobody but its owner may enter, and its parents.
pub(crate) fn create_secret_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(unix)]
fn restrict(options: &mut OpenOptions, mode: u32) {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
}

#[cfg(not(unix))]
fn restrict(_options: &mut OpenOptions, _mode: u32) {}

#[cfg(unix)]
fn is_exposed(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0
}

/// Elsewhere access control lists decide, which inherit from the directory.
#[cfg(not(unix))]
fn is_exposed(_metadata: &fs::Metadata) -> bool {
    false
}

/// A 32-byte secret as 64 hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
    text
}

/// The secret written by [`to_hex`].
pub(crate) fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut digits = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let mut bytes = Zeroizing::new([0; 32]);
    for byte in bytes.iter_mut() {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    digits.next().is_none().then_some(bytes)
}
