//! Who may ask: the `Host` header against DNS rebinding, the token against everyone else on the machine.

use std::{
    fmt,
    io::{self, Write as _},
    net::IpAddr,
    path::Path,
};

use hyper::{
    Request, StatusCode, Version,
    header::{AUTHORIZATION, HOST},
};

use crate::error::ApiError;

/// Bytes of randomness in a token: beyond guessing.
pub const TOKEN_BYTES: usize = 32;

/// Longest token file that is read.
const MAX_TOKEN_FILE: u64 = 1024;

/// The secret that a request must present before it changes anything.
///
/// Whoever can read the file it is kept in (mode 600, in the data directory) may administer the node.
/// `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// A token from the caller's randomness.
    #[must_use]
    pub fn from_random(random: [u8; TOKEN_BYTES]) -> Self {
        Self(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads the token file at `path`.
    ///
    /// # Errors
    /// When the file is missing, cannot be read, or holds no token.
    pub fn load(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "others can read or write the admin token; make it private (chmod 600), or delete it and \
                 restart the node to get a new one",
            ));
        }
        let length = metadata.len();
        let text = if length <= MAX_TOKEN_FILE {
            std::fs::read_to_string(path)?
        } else {
            String::new()
        };
        let token = text.trim();
        if token.len() == TOKEN_BYTES * 2 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(token.to_owned()))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the file does not hold an admin token; delete it and restart the node to get a new one",
            ))
        }
    }

    /// Reads the token file at `path`, or makes it with `fresh` as its token and mode 600.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn load_or_create(path: &Path, fresh: Self) -> io::Result<Self> {
        match Self::load(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        writeln!(file, "{}", fresh.0)?;
        file.sync_all()?;
        Ok(fresh)
    }

    /// The text that goes after `Authorization: Bearer `.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on lengths only.
    fn matches(&self, presented: &[u8]) -> bool {
        let differing = self
            .0
            .bytes()
            .zip(presented)
            .fold(0, |acc, (ours, theirs)| acc | (ours ^ theirs));
        self.0.len() == presented.len() && differing == 0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// Refuses a request whose `Host` is a name that nobody configured.
///
/// A page in the operator's browser can point its own name at 127.0.0.1 and then read what this server
/// answers (DNS rebinding); it cannot choose the `Host` header its requests carry.
pub(crate) fn check_host<B>(request: &Request<B>, allowed: &[String]) -> Result<(), ApiError> {
    let Some(host) = request.headers().get(HOST) else {
        if request.version() < Version::HTTP_11 {
            return Ok(());
        }
        return Err(ApiError::bad_request(
            "host-missing",
            "the request has no Host header",
            "send the address of this server as Host",
        ));
    };
    let host = host.to_str().unwrap_or("");
    if is_allowed_host(host, allowed) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "host-not-allowed",
        "the Host header names a host this server was not told about",
        "use an IP address or localhost, or the host name in the node's advertise_address",
    ))
}

fn is_allowed_host(host: &str, allowed: &[String]) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') {
        rest.split(']').next().unwrap_or("")
    } else {
        host.split(':').next().unwrap_or("")
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

/// Refuses a request that needs the token and does not present it.
pub(crate) fn check_token<B>(request: &Request<B>, token: &AdminToken) -> Result<(), ApiError> {
    let presented = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let (code, message) = match presented {
        Some(presented) if token.matches(presented) => return Ok(()),
        Some(_) => ("wrong-token", "the token is not the one of this node"),
        None => (
            "token-missing",
            "changing anything, and taking a backup, needs the node's admin token",
        ),
    };
    Err(ApiError::new(
        StatusCode::UNAUTHORIZED,
        code,
        message,
        "send `Authorization: Bearer <token>` with the text of admin.token in the node's data directory",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> AdminToken {
        AdminToken::from_random([7; TOKEN_BYTES])
    }

    #[test]
    fn addresses_localhost_and_configured_names_are_hosts_of_ours() {
        let allowed = ["node1.example".to_owned()];
        for host in [
            "127.0.0.1:9640",
            "[::1]:9640",
            "LOCALHOST",
            "localhost:1",
            "Node1.Example:9640",
        ] {
            assert!(is_allowed_host(host, &allowed), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example:9640",
            "[evil]:1",
            "[::1",
        ] {
            assert_eq!(is_allowed_host(host, &allowed), host == "[::1", "{host}");
        }
    }

    #[test]
    fn only_the_whole_token_passes() {
        let check = |value: Option<String>| {
            let mut request = Request::new(());
            if let Some(value) = value {
                request
                    .headers_mut()
                    .insert(AUTHORIZATION, value.parse().unwrap());
            }
            check_token(&request, &token()).map_err(|error| error.body.code)
        };
        let text = token().reveal().to_owned();
        assert_eq!(check(Some(format!("Bearer {text}"))), Ok(()));
        assert_eq!(
            check(Some(format!("Bearer {}", &text[..63]))),
            Err("wrong-token".into())
        );
        assert_eq!(check(Some(format!("Bearer {text}0"))), Err("wrong-token".into()));
        assert_eq!(check(Some(text)), Err("token-missing".into()));
        assert_eq!(check(None), Err("token-missing".into()));
    }

    #[test]
    fn the_token_file_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        let first = AdminToken::load_or_create(&path, token()).unwrap();
        let again = AdminToken::load_or_create(&path, AdminToken::from_random([8; TOKEN_BYTES])).unwrap();
        assert!(first == again);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(&path, "short").unwrap();
        assert!(AdminToken::load(&path).is_err());
        assert_eq!(format!("{:?}", token()), "AdminToken(..)");
    }
}
