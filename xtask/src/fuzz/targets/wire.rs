//! What a connection carries before and beside the bodies of calls: hellos, frames, words, joining.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use rivven_transport::{
    CallCtx, Caller, PeerIdentity, Router, fuzzing,
    identity::{CertificateAuthority, NodeIdentity, Role, request_key},
    issuer::{Issuer, RenewRequest, RenewResponse},
    join::{JoinRequest, JoinResponse, JoinSecret, JoinToken, MemoryLedger, TokenId, TokenSpec},
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

/// The calls of the transport itself: renewing, and joining, which is the only one that a stranger can make.
pub(super) struct Issuing {
    runtime: Runtime,
    router: Router,
    authority: String,
    key: String,
    renew: Vec<u8>,
    join: Vec<u8>,
}

/// Methods that are not asked for by name, but by the number in the first byte of an input.
const RENEW: u8 = 1;
const JOIN: u8 = 2;

impl Issuing {
    pub(super) fn new() -> Result<Self> {
        let authority = CertificateAuthority::generate(CLUSTER)?;
        let issued = authority.issue(2)?;
        let member = NodeIdentity::from_pem(authority.cert_pem(), issued.cert_pem(), issued.key_pem())?;
        let request = member.request()?;
        let issuer = authority.issue(1)?;
        let issuer = NodeIdentity::from_pem(authority.cert_pem(), issuer.cert_pem(), issuer.key_pem())?;
        let ledger = MemoryLedger::new();
        let secret: JoinSecret = postcard::from_bytes(&[7; 32])?;
        let in_three_days = issuer.validity().not_before.as_secs() + 3 * 24 * 3600;
        ledger.issue(TokenId::of(CLUSTER, &secret), 2, in_three_days)?;
        let ca = authority.cert_pem().to_owned();
        let router = Router::new();
        Issuer::new(authority)
            .admit(Arc::new(ledger), issuer.into(), None)
            .serve(&router);
        let join = JoinRequest {
            node: 2,
            secret,
            request: request.clone(),
        };
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            router,
            authority: ca,
            key: issued.key_pem().to_owned(),
            renew: postcard::to_allocvec(&RenewRequest { request })?,
            join: postcard::to_allocvec(&join)?,
        })
    }

    /// Whether `certificate` is of node 2 and of the only key that was ever proven here.
    fn is_ours(&self, certificate: &str) -> bool {
        NodeIdentity::from_pem(&self.authority, certificate, &self.key)
            .is_ok_and(|identity| identity.node() == 2)
    }
}

impl Target for Issuing {
    fn corpus(&self) -> Vec<Vec<u8>> {
        let call = |method: u8, body: &[u8]| [&[method], body].concat();
        vec![
            call(RENEW, &self.renew),
            call(JOIN, &self.join),
            call(JOIN, &self.renew),
            call(3, &self.renew),
        ]
    }

    fn feed(&mut self, input: &[u8]) -> bool {
        // Whoever is certified has proven the key of the corpus, whatever else was altered.
        self.certified(input) != Some(false)
    }
}

impl Issuing {
    /// Whether what was certified is what may be; `None` if nothing was.
    fn certified(&self, input: &[u8]) -> Option<bool> {
        let (method, body) = input.split_first()?;
        // A stranger has proven nothing, and has no number.
        let (node, role) = match *method {
            JOIN => (0, None),
            _ => (2, Some(Role::Node)),
        };
        let sender = local(node);
        let caller = Caller {
            peer: PeerIdentity {
                node: sender.node,
                instance: sender.instance,
                boot_epoch: sender.boot_epoch,
            },
            role,
            deadline: CallCtx::timeout(std::time::Duration::from_secs(1)).deadline,
            trace: None,
        };
        let body = Bytes::copy_from_slice(body);
        let answer = self
            .runtime
            .block_on(self.router.dispatch(caller, u16::from(*method), body));
        let answer = answer.ok()?;
        Some(match *method {
            RENEW => postcard::from_bytes::<RenewResponse>(&answer)
                .is_ok_and(|answer| self.is_ours(&answer.certificate)),
            JOIN => postcard::from_bytes::<JoinResponse>(&answer)
                .is_ok_and(|answer| self.is_ours(&answer.certificate)),
            _ => false,
        })
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

    #[test]
    fn members_and_strangers_are_certified_for_what_they_have_proven() {
        let issuing = Issuing::new().unwrap();
        let certified: Vec<_> = issuing
            .corpus()
            .iter()
            .map(|input| issuing.certified(input))
            .collect();
        assert_eq!(certified, [Some(true), Some(true), None, None]);
        // A certificate of another key would be noticed.
        let other = CertificateAuthority::generate(CLUSTER).unwrap();
        assert!(!issuing.is_ours(other.issue(2).unwrap().cert_pem()));
    }
}
