#!/usr/bin/env python3
"""An independent implementation of SPEC.md, which writes the golden vectors of the crate's tests.

    python3 vectors.py            writes vectors.txt beside this script
    python3 vectors.py --check    compares instead, and fails if anything differs

Standard library only. Slow and plain on purpose: it shall share no idea with the Rust code but the text.
"""

import pathlib
import sys

M32, M64 = (1 << 32) - 1, (1 << 64) - 1

# --- XXH3-64, from the published algorithm description -------------------------------------------------

P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def r32(b, at):
    return int.from_bytes(b[at : at + 4], "little")


def r64(b, at):
    return int.from_bytes(b[at : at + 8], "little")


def rotl(x, n):
    return (x << n | x >> (64 - n)) & M64


def swap64(x):
    return int.from_bytes(x.to_bytes(8, "little"), "big")


def fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche64(h):
    h = (h ^ h >> 33) * P64_2 & M64
    h = (h ^ h >> 29) * P64_3 & M64
    return h ^ h >> 32


def avalanche3(h):
    h = (h ^ h >> 37) * MX1 & M64
    return h ^ h >> 32


def mix16(b, at, secret_at, seed):
    low = r64(b, at) ^ (r64(SECRET, secret_at) + seed & M64)
    high = r64(b, at + 8) ^ (r64(SECRET, secret_at + 8) - seed & M64)
    return fold(low, high)


def xxh3_to_16(b, seed):
    n = len(b)
    if n == 0:
        return avalanche64(seed ^ r64(SECRET, 56) ^ r64(SECRET, 64))
    if n <= 3:
        word = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        return avalanche64(word ^ ((r32(SECRET, 0) ^ r32(SECRET, 4)) + seed & M64))
    if n <= 8:
        seed ^= int.from_bytes((seed & M32).to_bytes(4, "little"), "big") << 32
        flip = (r64(SECRET, 8) ^ r64(SECRET, 16)) - seed & M64
        h = (r32(b, n - 4) + (r32(b, 0) << 32)) ^ flip
        h ^= rotl(h, 49) ^ rotl(h, 24)
        h = h * MX2 & M64
        h = (h ^ (h >> 35) + n) * MX2 & M64
        return h ^ h >> 28
    low = r64(b, 0) ^ ((r64(SECRET, 24) ^ r64(SECRET, 32)) + seed & M64)
    high = r64(b, n - 8) ^ ((r64(SECRET, 40) ^ r64(SECRET, 48)) - seed & M64)
    return avalanche3(n + swap64(low) + high + fold(low, high) & M64)


def xxh3_to_240(b, seed):
    n = len(b)
    acc = n * P64_1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += mix16(b, 16 * i, 32 * i, seed) + mix16(b, n - 16 * (i + 1), 32 * i + 16, seed)
        return avalanche3(acc & M64)
    for i in range(8):
        acc += mix16(b, 16 * i, 16 * i, seed)
    acc = avalanche3(acc & M64)
    for i in range(8, n // 16):
        acc += mix16(b, 16 * i, 16 * (i - 8) + 3, seed)
    acc += mix16(b, n - 16, 136 - 17, seed)
    return avalanche3(acc & M64)


def xxh3_long(b, seed):
    n = len(b)
    secret = b"".join(
        (r64(SECRET, at) + seed & M64).to_bytes(8, "little")
        + (r64(SECRET, at + 8) - seed & M64).to_bytes(8, "little")
        for at in range(0, 192, 16)
    )
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]

    def accumulate(at, secret_at):
        for i in range(8):
            data = r64(b, at + 8 * i)
            key = data ^ r64(secret, secret_at + 8 * i)
            acc[i ^ 1] = acc[i ^ 1] + data & M64
            acc[i] = acc[i] + (key & M32) * (key >> 32) & M64

    blocks = (n - 1) // 1024
    for block in range(blocks):
        for stripe in range(16):
            accumulate(1024 * block + 64 * stripe, 8 * stripe)
        for i in range(8):
            acc[i] = (acc[i] ^ acc[i] >> 47 ^ r64(secret, 128 + 8 * i)) * P32_1 & M64
    for stripe in range((n - 1 - 1024 * blocks) // 64):
        accumulate(1024 * blocks + 64 * stripe, 8 * stripe)
    accumulate(n - 64, 192 - 64 - 7)
    h = n * P64_1
    for i in range(4):
        h += fold(acc[2 * i] ^ r64(secret, 11 + 16 * i), acc[2 * i + 1] ^ r64(secret, 19 + 16 * i))
    return avalanche3(h & M64)


def xxh3(seed, b):
    return (xxh3_to_16 if len(b) <= 16 else xxh3_to_240 if len(b) <= 240 else xxh3_long)(b, seed)


# --- SPEC.md -------------------------------------------------------------------------------------------

PHI = 0x9E3779B97F4A7C15
NODE, TOPIC, MEMBER, RING, TABLE, RECORD = (
    int.from_bytes(s, "little")
    for s in (b"rvn-node", b"rvntopic", b"rvn-memb", b"rvn-ring", b"rvn-slot", b"rvn-reco")
)


def fmix(x):
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & M64
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & M64
    return x ^ x >> 33


def derive(h, index):
    return fmix(h ^ (index + 1) * PHI & M64)


def tokens(name, weight, virtual_nodes):
    h = xxh3(NODE, name.encode())
    return [derive(h, i) for i in range(max(1, (virtual_nodes * weight + 50) // 100))]


def position(topic, partition):
    return derive(xxh3(TOPIC, topic.encode()), partition)


def key_partition(key, partitions):
    return xxh3(RECORD, key) * partitions >> 64


def fingerprint(virtual_nodes, nodes):
    out = (1).to_bytes(2, "little") + virtual_nodes.to_bytes(4, "little")
    for name, weight, zone in sorted(nodes, key=lambda node: node[0].encode()):
        data = b""
        for text in (name.encode(), zone.encode()):
            data += len(text).to_bytes(2, "little") + text
        data += weight.to_bytes(4, "little")
        for token in tokens(name, weight, virtual_nodes):
            data += token.to_bytes(8, "little")
        out += xxh3(MEMBER, data).to_bytes(8, "little")
    return xxh3(RING, out)


def walk(virtual_nodes, nodes, at):
    ring = sorted((t, n.encode(), n) for n, w, _ in nodes for t in tokens(n, w, virtual_nodes))
    ring = [entry for entry in ring if entry[0] >= at] + [entry for entry in ring if entry[0] < at]
    return list(dict.fromkeys(name for _, _, name in ring))


def replica_set(virtual_nodes, nodes, at, count):
    zone = {name: z for name, _, z in nodes}
    left, chosen = walk(virtual_nodes, nodes, at), []
    for _ in range(count):
        used = lambda name: sum(zone[c] == zone[name] for c in chosen)
        level = min(map(used, left))
        pick = next(name for name in left if used(name) == level)
        left.remove(pick)
        chosen.append(pick)
    return chosen


def table_fingerprint(virtual_nodes, nodes, bits):
    return xxh3(TABLE, fingerprint(virtual_nodes, nodes).to_bytes(8, "little") + bits.to_bytes(4, "little"))


# --- The cases -----------------------------------------------------------------------------------------


def lines():
    yield "# Written by vectors.py from SPEC.md. Names are in hexadecimal, so that spaces need no rule."
    yield "# Byte i of an xxh3 input of n bytes is (7 * i + n) modulo 256."
    for n in (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 129, 143, 144,
              160, 239, 240, 241, 255, 256, 512, 1023, 1024, 1025, 1088, 2048, 2049, 4133):
        data = bytes((7 * i + n) & 255 for i in range(n))
        for seed in (0, 1, NODE, M64):
            yield f"xxh3 {seed:016x} {n} {xxh3(seed, data):016x}"
    names = ["a", "node1", "node2", "10.0.0.1:9093", "broker with spaces", "näöd-\u2603", "x" * 255]
    for name in names:
        for i in (0, 1, 127, 4095):
            yield f"token {name.encode().hex()} {i} {derive(xxh3(NODE, name.encode()), i):016x}"
    topics = ["", "orders", "my-topic", "t" * 249, "a.b_c-D", "\u65e5\u672c"]
    for topic in topics:
        for p in (0, 1, 7, 65535, 2**32 - 1):
            yield f"key {topic.encode().hex() or '-'} {p} {position(topic, p):016x}"
    for key in (b"", b"a", b"user-4711", bytes(range(256)), b"\xff" * 17):
        for partitions in (1, 2, 3, 12, 16384, 2**32 - 1):
            yield f"record {key.hex() or '-'} {partitions} {key_partition(key, partitions)}"
    rings = [
        (128, [("node1", 100, ""), ("node2", 100, "")]),
        (128, [(f"{i}", 100, "abc"[i % 3]) for i in range(1, 10)]),
        (16, [("big", 250, "z1"), ("small", 3, "z1"), ("plain", 100, ""), ("other", 100, "z2")]),
        (1, [("only", 1, "")]),
    ]
    for virtual_nodes, nodes in rings:
        yield f"ring {virtual_nodes}"
        for name, weight, zone in nodes:
            yield f"node {name.encode().hex()} {weight} {zone.encode().hex() or '-'}"
        yield f"fingerprint {fingerprint(virtual_nodes, nodes):016x}"
        for bits in (4, 10):
            yield f"table {bits} {table_fingerprint(virtual_nodes, nodes, bits):016x}"
            for slot in (0, 1, (1 << bits) - 1):
                names = replica_set(virtual_nodes, nodes, slot << (64 - bits), min(3, len(nodes)))
                names = " ".join(name.encode().hex() for name in names)
                yield f"slot {bits} {slot} {names}"
        for topic in topics[1:4]:
            for p in range(8):
                names = replica_set(virtual_nodes, nodes, position(topic, p), len(nodes))
                names = " ".join(name.encode().hex() for name in names)
                yield f"replicas {topic.encode().hex()} {p} {names}"


def main():
    path = pathlib.Path(__file__).with_name("vectors.txt")
    text = "\n".join(lines()) + "\n"
    if sys.argv[1:] == ["--check"]:
        if path.read_text() != text:
            sys.exit(f"{path} differs from what SPEC.md says; never edit it by hand")
        print(f"{path}: {len(text.splitlines()) - 2} vectors as specified")
    else:
        path.write_text(text)


if __name__ == "__main__":
    main()
