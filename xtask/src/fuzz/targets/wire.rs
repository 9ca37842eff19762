//! What a connection carries before and beside the bodies of calls: hellos, frames, words, joining.

use anyhow::Result;
use bytes::Bytes;
use rivven_transport::{
    CallCtx, Caller, PeerIdentity, Router, fuzzing,
    identity::{CertificateAuthority, NodeIdentity, request_key},
    issuer::{Issuer, RenewRequest},
    join::{JoinToken, TokenSpec},
};
use tokio::runtime::Runtime;

use super::{CLUSTER, Target, local};

/// Bytes of a trace context in a request.
const TRACE_LEN: usize = 25;

/// Frames of calls, as they lie in a stream: `docs/formats/wire.md`.
pub(super) struct Frames;

impl Target for Frames {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let call = [1, 2, 0, 0, 0, 0, 0, 0, 0, 7];
        let frame = |kind: u8, flags: u8, rest: &[u8]| {
            let len = u8::try_from(12 + rest.len()).unwrap_or(u8::MAX);
            [&[0, 0, 0, len, kind, flags], &call[..], rest].concat()
        };
        let traced = [&b"\0\0\x03\xe8"[..], &[0x5a; TRACE_LEN], b"abc"].concat();
        let kinds = [
            frame(0, 0, b"\0\0\x03\xe8abc"),
            frame(0, 1, &traced),
            frame(1, 0, b"hello"),
            frame(2, 0, b"\x01a\x01b"),
            frame(3, 0, b""),
            frame(4, 0, b""),
        ];
        let all = kinds.concat();
        kinds.into_iter().chain([all]).collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        // A frame has 16 bytes at least, so a count beyond that is made up. One that is announced longer than its
        // class allows and is reserved for all the same shows in what the process asks for.
        fuzzing::frames(input) <= input.len() / 16
    }
}

/// Frames of a transfer, as they lie in a stream.
pub(super) struct Transfer;

impl Target for Transfer {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let frame = |kind: u8, body: &[u8]| {
            let len = u8::try_from(body.len() + 1).unwrap_or(u8::MAX);
            [&[0, 0, 0, len, kind], body].concat()
        };
        let offset = 3_u64.to_be_bytes();
        let kinds = [
            frame(0, b"\x01\x02header"),
            frame(1, &offset),
            frame(2, b"a chunk"),
            frame(3, &offset),
            frame(4, b""),
            frame(5, b"receipt"),
            frame(6, b"\x01a\x01b"),
            frame(7, b""),
        ];
        let all = kinds.concat();
        kinds.into_iter().chain([all]).collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        // A frame is written in one way only, so whatever was understood is what stood there.
        input.starts_with(&fuzzing::transfer(input))
    }
}

/// The first words of a connection.
pub(super) struct Hello;

impl Target for Hello {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let hello = |purpose: u8, family: u8| {
            [
                &b"RVVN\0\0\0\0"[..],
                &[purpose],
                &[1; 16],
                &7_u64.to_be_bytes(),
                &[2; 16],
                &3_u64.to_be_bytes(),
                &[family, 127, 0, 0, 1],
                &[0; 12],
                &[0x23, 0x85],
                &6_u64.to_be_bytes(),
                &7_u64.to_be_bytes(),
                &8_u64.to_be_bytes(),
            ]
            .concat()
        };
        (0..3)
            .flat_map(|purpose| [hello(purpose, 4), hello(purpose, 6)])
            .collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        // What was understood says the same when it is said again.
        fuzzing::hello(input).is_none_or(|again| fuzzing::hello(&again).as_ref() == Some(&again))
    }
}

/// Pings, pongs, and farewells.
pub(super) struct Words;

impl Target for Words {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let word = |kind: u8, number: u64| [&[kind][..], &number.to_be_bytes()].concat();
        let kinds = [word(0, 5), word(1, 5), word(2, 0), word(2, 1)];
        let all = kinds.concat();
        kinds.into_iter().chain([all]).collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        fuzzing::words(input) <= input.len() / 9
    }
}

/// What a newcomer brings: the text of a token, and a request to certify its key.
pub(super) struct Joining {
    tokens: Vec<Vec<u8>>,
    request: Vec<u8>,
}

impl Joining {
    pub(super) fn new() -> Result<Self> {
        let token = |addresses: &[&str]| {
            let addresses: Result<_, _> = addresses.iter().map(|addr| addr.parse()).collect();
            let spec = TokenSpec {
                cluster: CLUSTER,
                authority: [3; 32],
                node: 4,
                expires_s: 1_900_000_000,
                addresses: addresses?,
            };
            anyhow::Ok(JoinToken::generate(spec)?.to_text().as_bytes().to_vec())
        };
        Ok(Self {
            tokens: vec![token(&["10.0.0.1:9093"])?, token(&["node2:9093", "[::1]:1"])?],
            request: identity()?.request()?,
        })
    }
}

fn identity() -> Result<NodeIdentity> {
    let authority = CertificateAuthority::generate(CLUSTER)?;
    let issued = authority.issue(2)?;
    Ok(NodeIdentity::from_pem(
        authority.cert_pem(),
        issued.cert_pem(),
        issued.key_pem(),
    )?)
}

impl Target for Joining {
    fn corpus(&self) -> Vec<Vec<u8>> {
        self.tokens
            .iter()
            .cloned()
            .chain([self.request.clone()])
            .collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        let token = std::str::from_utf8(input)
            .ok()
            .and_then(|text| JoinToken::parse(text).ok());
        // A token that reads is written in one way only, but for its case and the space around it.
        let same = token.is_none_or(|token| {
            let text = String::from_utf8_lossy(input);
            token.to_text().eq_ignore_ascii_case(text.trim())
        });
        // A request is signed, so whatever is believed of it must be the key of the corpus.
        let forged = request_key(input).is_ok_and(|key| request_key(&self.request).ok() != Some(key));
        same && !forged
    }
}

/// The calls of the transport itself: renewing, joining.
pub(super) struct Issuing {
    runtime: Runtime,
    router: Router,
    request: Vec<u8>,
}

impl Issuing {
    pub(super) fn new() -> Result<Self> {
        let router = Router::new();
        Issuer::new(CertificateAuthority::generate(CLUSTER)?).serve(&router);
        let renew = RenewRequest {
            request: identity()?.request()?,
        };
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            router,
            request: postcard::to_allocvec(&renew)?,
        })
    }
}

impl Target for Issuing {
    fn corpus(&self) -> Vec<Vec<u8>> {
        // The first byte is the method.
        (1..=2)
            .map(|method| [&[method], &self.request[..]].concat())
            .collect()
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        let Some((method, body)) = input.split_first() else {
            return true;
        };
        let sender = local(2);
        let caller = Caller {
            peer: PeerIdentity {
                node: sender.node,
                instance: sender.instance,
                boot_epoch: sender.boot_epoch,
            },
            role: Some(rivven_transport::identity::Role::Node),
            deadline: CallCtx::timeout(std::time::Duration::from_secs(1)).deadline,
            trace: None,
        };
        let body = Bytes::copy_from_slice(body);
        let answer = self
            .runtime
            .block_on(self.router.dispatch(caller, u16::from(*method), body));
        // Whoever is certified had a key to prove.
        let proven = input.windows(self.request.len()).any(|part| part == self.request);
        answer.is_err() || proven || input.len() >= self.request.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_targets_begin_with_is_understood_to_its_end() {
        let all = |target: &dyn Target| target.corpus().pop().unwrap();
        assert_eq!(fuzzing::frames(&all(&Frames)), 6);
        assert_eq!(fuzzing::words(&all(&Words)), 4);
        assert_eq!(fuzzing::transfer(&all(&Transfer)), all(&Transfer));
        for hello in Hello.corpus() {
            assert_eq!(fuzzing::hello(&hello).unwrap(), hello);
        }
    }
}
