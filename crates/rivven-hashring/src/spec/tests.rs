//! The golden vectors of `spec/vectors.py`, an independent implementation of `spec/SPEC.md`.

use alloc::{string::String, vec::Vec};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::*;
use crate::{NodeName, Ring, Weight};

const VECTORS: &str = include_str!("../../spec/vectors.txt");

fn unhex(text: &str) -> Vec<u8> {
    let text = if text == "-" { "" } else { text };
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(unhex(hex)).unwrap()
}

fn number(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).unwrap()
}

#[test]
fn the_crate_agrees_with_the_independent_implementation() {
    let mut ring = Ring::default();
    let mut checked = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["xxh3", seed, len, hash] => {
                let len: usize = len.parse().unwrap();
                let data: Vec<u8> = (0..len).map(|i| (7 * i + len).to_le_bytes()[0]).collect();
                assert_eq!(xxh3_64_with_seed(&data, number(seed)), number(hash), "{line}");
            }
            ["token", name, index, token] => {
                let node = RingNode::new(text(name)).weighing(Weight::MAX);
                let found = tokens(&node, 4096).nth(index.parse().unwrap());
                assert_eq!(found, Some(number(token)), "{line}");
            }
            ["key", topic, partition, position] => {
                let found = TopicKey::new(&text(topic)).partition(partition.parse().unwrap());
                assert_eq!(found, Position(number(position)), "{line}");
            }
            ["record", key, partitions, partition] => {
                let found = key_partition(&unhex(key), partitions.parse().unwrap());
                assert_eq!(found, partition.parse::<u32>().unwrap(), "{line}");
            }
            ["ring", virtual_nodes] => ring = Ring::try_new(virtual_nodes.parse().unwrap()).unwrap(),
            ["node", name, weight, zone] => {
                let weight = Weight::percent(weight.parse().unwrap()).unwrap();
                let mut node = RingNode::new(text(name)).weighing(weight);
                node.zone = (zone != "-").then(|| text(zone).into());
                ring.add(node).unwrap();
            }
            ["fingerprint", fingerprint] => {
                assert_eq!(ring.fingerprint(), number(fingerprint), "{line}");
            }
            ["replicas", topic, partition, ref names @ ..] => {
                let (topic, partition) = (text(topic), partition.parse().unwrap());
                let expected: Vec<NodeName> = names.iter().map(|name| text(name).into()).collect();
                let found = ring.replica_set(&topic, partition, names.len()).unwrap();
                assert!(found.into_iter().eq(&expected), "{line}");
                assert_eq!(ring.owner(&topic, partition), Ok(&expected[0]), "{line}");
            }
            ["table", bits, fingerprint] => {
                let table = ring.compile(bits.parse().unwrap(), 1).unwrap();
                assert_eq!(table.fingerprint(), number(fingerprint), "{line}");
            }
            ["slot", bits, slot, ref names @ ..] => {
                let (bits, slot): (u32, u64) = (bits.parse().unwrap(), slot.parse().unwrap());
                let expected: Vec<NodeName> = names.iter().map(|name| text(name).into()).collect();
                let table = ring.compile(bits, names.len()).unwrap();
                // The last position of the slot, which gets the set of the first.
                let set = table.replica_set_at(Position((slot << (64 - bits)) + (u64::MAX >> bits)));
                assert!(set.names().eq(&expected), "{line}");
            }
            _ => panic!("a line of vectors.txt that this test does not know: {line}"),
        }
        checked += 1;
    }
    assert!(checked > 300, "vectors.txt holds only {checked} vectors");
}

#[test]
fn an_unknown_specification_version_is_refused() {
    assert_eq!(SpecVersion::try_from(1), Ok(SpecVersion::V1));
    for version in [0, 2, u16::MAX] {
        let refused = RingError::UnsupportedSpec { version };
        assert_eq!(SpecVersion::try_from(version), Err(refused));
    }
}
