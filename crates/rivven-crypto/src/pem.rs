//! The text form of a secret (RFC 7468), written without leaving copies in memory.

use zeroize::Zeroizing;

/// Characters in a line (RFC 7468, section 2).
const LINE: usize = 64;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `der` between `BEGIN` and `END` lines of `label`.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    // The buffer is sized up front: growing it would leave an unwiped copy behind.
    let body = der.len().div_ceil(3) * 4;
    let mut text = Zeroizing::new(String::with_capacity(body + body / LINE + 2 * label.len() + 48));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(LINE / 4 * 3) {
        for triple in line.chunks(3) {
            let bits = triple
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - triple.len()));
            for at in 0..4_usize {
                let index = bits >> (18 - 6 * at) & 63;
                let digit = ALPHABET.get(index as usize).filter(|_| at <= triple.len());
                text.push(digit.map_or('=', |digit| char::from(*digit)));
            }
        }
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    /// RFC 4648, section 10.
    #[test]
    fn every_length_is_padded_as_specified() {
        for (input, body) in [
            ("", ""),
            ("f", "Zg==\n"),
            ("fo", "Zm8=\n"),
            ("foo", "Zm9v\n"),
            ("foobar", "Zm9vYmFy\n"),
        ] {
            let expected = format!("-----BEGIN X-----\n{body}-----END X-----\n");
            assert_eq!(*super::encode("X", input.as_bytes()), expected);
        }
    }
}
