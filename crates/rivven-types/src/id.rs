//! Who a node is: `(cluster id, node id, instance id, boot epoch)`.

use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Number of a node, unique in its cluster and chosen by the operator.
///
/// A node keeps its number for life. A number reused with an empty disk is a different *instance*; see
/// [`InstanceId`].
pub type NodeId = u64;

/// A cluster, from the birth of its certificate authority on.
///
/// Stands in every certificate, every handshake and on every disk, so that two clusters never mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId([u8; 16]);

/// One data directory of a node.
///
/// A known node id that arrives with another instance id has lost its disk: letting it vote could split
/// a Raft cluster undetectably.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId([u8; 16]);

/// How often an instance has been started, counted durably.
///
/// A higher epoch supersedes everything learned from a lower one. Zero is never a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BootEpoch(pub u64);

impl BootEpoch {
    /// The epoch of the next start.
    ///
    /// Saturates: at one start per nanosecond the counter lasts five centuries.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for BootEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not 32 hexadecimal digits, with or without the hyphens of a UUID (RFC 9562, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a UUID such as 01234567-89ab-4def-8123-456789abcdef")
    }
}

impl core::error::Error for ParseIdError {}

/// Makes 16 random bytes a version 4 UUID (RFC 9562, section 5.4).
const fn version_4(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

fn write_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Result<[u8; 16], ParseIdError> {
    let hyphens = text.match_indices('-').map(|(at, _)| at);
    if !hyphens.clone().eq([8, 13, 18, 23]) && hyphens.count() != 0 {
        return Err(ParseIdError);
    }
    let mut bytes = [0; 16];
    let mut digits = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    for byte in &mut bytes {
        let mut digit = || {
            let value = digits.next().flatten().ok_or(ParseIdError)?;
            u8::try_from(value).map_err(|_| ParseIdError)
        };
        *byte = digit()? << 4 | digit()?;
    }
    if digits.next().is_some() {
        Err(ParseIdError)
    } else {
        Ok(bytes)
    }
}

macro_rules! uuid_id {
    ($name:ident) => {
        impl $name {
            /// An id from 16 bytes of the caller's randomness; the version bits of a UUID v4 are set.
            #[must_use]
            pub const fn from_random(random: [u8; 16]) -> Self {
                Self(version_4(random))
            }

            /// An id from bytes written earlier by [`Self::to_bytes`].
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes of the id.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_uuid(text).map(Self)
            }
        }
    };
}

uuid_id!(ClusterId);
uuid_id!(InstanceId);

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn ids_print_as_uuids_and_parse_back() {
        let id = ClusterId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().replace('-', "").parse(), Ok(id));
    }

    #[test]
    fn text_that_is_no_uuid_is_refused() {
        for text in [
            "",
            "ffffffff",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "zz",
            "ffffffff-ffff-4fff-bfff-ffffffffffff0",
        ] {
            assert_eq!(text.parse::<InstanceId>(), Err(ParseIdError), "{text:?}");
        }
        assert!(
            "fffffffff-fff-4fff-bfff-ffffffffffff"
                .parse::<InstanceId>()
                .is_err()
        );
    }
}
