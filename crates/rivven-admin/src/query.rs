//! Percent-decoding and query parameters, strict: what is not understood is refused by name.

use std::{collections::BTreeMap, str::FromStr};

use crate::error::ApiError;

/// Most parameters one request may carry.
const MAX_PARAMETERS: usize = 16;

/// The parameters of one request. A handler takes what it knows; [`Query::finish`] refuses the rest.
#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut parameters = BTreeMap::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_text(name)?;
            if parameters.len() == MAX_PARAMETERS {
                return Err(bad_parameter("too many parameters"));
            }
            if parameters.contains_key(&name) {
                return Err(bad_parameter(format!("`{name}` is given twice")));
            }
            parameters.insert(name, decode_text(value)?);
        }
        Ok(Self(parameters))
    }

    /// The value of `name`, as text.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// The value of `name`, as a number.
    pub(crate) fn take_number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.0.remove(name) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| bad_parameter(format!("`{name}` is not a number in range")))
    }

    /// Refuses parameters that nobody took, so that a misspelled one is not silently without effect.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(bad_parameter(format!(
                "`{}` is not a parameter of this path",
                name.escape_default()
            ))),
        }
    }
}

fn bad_parameter(message: impl Into<String>) -> ApiError {
    ApiError::bad_request(
        "bad-parameter",
        message,
        "see docs/operating/admin-api.md for the parameters of each path",
    )
}

/// Undoes percent-encoding (RFC 3986, section 2.1). `+` stands for itself.
fn decode(text: &str) -> Result<Vec<u8>, ApiError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.extend(u8::try_from(high << 4 | low)),
            _ => {
                return Err(ApiError::bad_request(
                    "bad-encoding",
                    "a percent sign is not followed by two hexadecimal digits",
                    "write a literal percent sign as %25",
                ));
            }
        }
    }
    Ok(decoded)
}

/// [`decode`] where only UTF-8 makes sense.
pub(crate) fn decode_text(text: &str) -> Result<String, ApiError> {
    String::from_utf8(decode(text)?).map_err(|_| {
        ApiError::bad_request(
            "bad-encoding",
            "the decoded text is not UTF-8",
            "percent-encode the UTF-8 bytes of the text",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_or_refused() {
        assert_eq!(decode("a%2Fb+%00").unwrap(), b"a/b+\0");
        for text in ["%", "%2", "%zz", "%\u{e9}"] {
            assert_eq!(decode(text).unwrap_err().body.code, "bad-encoding", "{text:?}");
        }
        assert_eq!(decode_text("%ff").unwrap_err().body.code, "bad-encoding");
    }

    #[test]
    fn unknown_repeated_and_malformed_parameters_are_refused() {
        let mut query = Query::parse(Some("to=2&x=y")).unwrap();
        assert_eq!(query.take_number::<u64>("to").unwrap(), Some(2));
        assert!(query.finish().unwrap_err().body.message.contains("`x`"));
        assert!(Query::parse(Some("a=1&a=2")).is_err());
        let mut query = Query::parse(Some("to=two")).unwrap();
        assert!(query.take_number::<u64>("to").is_err());
        let many: String = (0..=MAX_PARAMETERS).map(|i| format!("p{i}=1&")).collect();
        assert!(Query::parse(Some(&many)).is_err());
    }
}
