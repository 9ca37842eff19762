//! Values as text: base64 (RFC 4648, section 4), since JSON knows no bytes.

/// Six bits as a character.
const fn digit(bits: u32) -> char {
    let bits = (bits & 63) as u8;
    (match bits {
        0..26 => b'A' + bits,
        26..52 => b'a' + bits - 26,
        52..62 => b'0' + bits - 52,
        62 => b'+',
        _ => b'/',
    }) as char
}

/// `bytes` in base64, padded.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut octets = chunk.iter().copied();
        let mut next = || u32::from(octets.next().unwrap_or(0));
        let bits = next() << 16 | next() << 8 | next();
        let digits = [18, 12, 6, 0].map(|shift| digit(bits >> shift));
        // One octet makes two digits, two make three.
        let count = chunk.len() + 1;
        text.extend(digits.iter().take(count));
        text.extend(std::iter::repeat_n('=', 4 - count));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10, and every digit.
    #[test]
    fn text_is_that_of_the_standard() {
        let check = |bytes: &[u8], text: &str| assert_eq!(encode(bytes), text);
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foob", "Zm9vYg==");
        check(b"fooba", "Zm9vYmE=");
        check(b"foobar", "Zm9vYmFy");
        let all = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits: String = (0..64).map(digit).collect();
        assert_eq!(digits, all);
    }
}
