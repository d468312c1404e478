#!/usr/bin/env python3
"""Verifies a copy of a Holdfast ledger, from the format's description alone (daemon/ledger/README.md).

    verify.py DIR --key VKEY [--from CHECKPOINT] [--prove SEQ]

Needs the standard library and `cryptography`. Uses none of Holdfast's code, and writes nothing.
"""

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

COMMIT_LENGTH = 0x80000030


class Bad(Exception):
    pass


def need(good, what):
    if not good:
        raise Bad(what)


def sha256(data):
    return hashlib.sha256(data).digest()


def crc32c(data, table=[]):
    if not table:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
            table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# RFC 6962: trees are lists of leaf hashes.
def leaf(entry):
    return sha256(b"\0" + entry)


def split(size):
    return 1 << (size - 1).bit_length() - 1


def root(leaves):
    if not leaves:
        return sha256(b"")
    while len(leaves) > 1:
        pairs = [sha256(b"\1" + a + b) for a, b in zip(leaves[::2], leaves[1::2])]
        leaves = pairs + leaves[len(pairs) * 2:]
    return leaves[0]


def push(peaks, node):
    """Adds a leaf to the roots of complete subtrees, [leaves, hash], largest first."""
    peaks.append([1, node])
    while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
        count, right = peaks.pop()
        peaks[-1] = [count * 2, sha256(b"\1" + peaks[-1][1] + right)]


def root_of_peaks(peaks):
    node = peaks[-1][1]
    for _, left in peaks[-2::-1]:
        node = sha256(b"\1" + left + node)
    return node


def inclusion(leaves, index):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return inclusion(leaves[:k], index) + [root(leaves[k:])]
    return inclusion(leaves[k:], index - k) + [root(leaves[:k])]


def root_of_inclusion(node, index, size, path):
    if size == 1:
        need(not path, "the inclusion proof is too long")
        return node
    need(path, "the inclusion proof is too short")
    k = split(size)
    if index < k:
        return sha256(b"\1" + root_of_inclusion(node, index, k, path[:-1]) + path[-1])
    return sha256(b"\1" + path[-1] + root_of_inclusion(node, index - k, size - k, path[:-1]))


def read_note(data, vkey):
    """The text of a signed note, if the key signed it."""
    text, gap, signatures = data.decode().rpartition("\n\n")
    need(gap and signatures.endswith("\n") and not re.search(r"[\x00-\x09\x0b-\x1f]", text), "it is not a signed note")
    text += "\n"
    name, key_id, key = vkey.split("+", 2)
    public = base64.b64decode(key, validate=True)
    need(public[0] == 1 and key_id == sha256(f"{name}\n".encode() + public)[:4].hex(), "the key is not an Ed25519 vkey")
    signed = False
    for line in signatures[:-1].split("\n"):
        dash, by, encoded = (line.split(" ") + ["", ""])[:3]
        need(line == f"\u2014 {by} {encoded}" and by, "a signature line is malformed")
        signature = base64.b64decode(encoded, validate=True)
        need(base64.b64encode(signature).decode() == encoded and len(signature) > 4, "a signature is malformed")
        if by == name and signature[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], text.encode())
            signed = True
    need(signed, "it is not signed by the key")
    return text


def read_checkpoint(data, vkey):
    text = read_note(data, vkey)
    origin, size, encoded, *rest = text.split("\n")
    need(rest == [""] and origin == vkey.split("+")[0] and size == str(int(size)), "it is no checkpoint of this log")
    return int(size), base64.b64decode(encoded, validate=True)


def read_log(read, files):
    """All committed entries; every checksum and every commit's root is checked on the way."""
    entries, leaves, peaks, committed = [], [], [], 0
    for file in files:
        data = read(file)
        need(data[:8] == b"HFLOG\0\0\1" and len(data) >= 32, f"{file}: it is no segment")
        epoch, first, crc, zero = struct.unpack(">QQII", data[8:32])
        need(crc == crc32c(data[:24]) and zero == 0, f"{file}: the header is damaged")
        need(first == len(entries) and file == f"log/{first:020}.log", f"{file}: it does not follow the segment before")
        at = 32
        while at < len(data):
            need(len(data) - at >= 8, f"{file}: byte {at}: it ends inside a frame")
            length, crc = struct.unpack(">II", data[at:at + 8])
            is_commit = length == COMMIT_LENGTH
            length = 48 if is_commit else length
            need(1 <= length <= 65535 and at + 8 + length <= len(data), f"{file}: byte {at}: the length is impossible")
            payload = data[at + 8:at + 8 + length]
            need(crc == crc32c(payload), f"{file}: byte {at}: entry {len(entries)}: the checksum is wrong")
            at += 8 + length
            if is_commit:
                before, size, expected = struct.unpack(">QQ32s", payload)
                need(before == committed < size == len(entries), f"{file}: byte {at}: the commit does not follow")
                need(expected == root_of_peaks(peaks), f"{file}: byte {at}: the root is wrong")
                committed = size
            else:
                need(json.loads(payload)["seq"] == len(entries), f"{file}: byte {at}: the entry has another number")
                entries.append(payload)
                leaves.append(leaf(payload))
                push(peaks, leaves[-1])
        need(committed == len(entries), f"{file}: it ends before the commit of its last entries")
    return entries, leaves


def tile_path(kind, index, width):
    digits = f"{index:0{-(-len(str(index)) // 3) * 3}}"
    groups = [digits[n:n + 3] for n in range(0, len(digits), 3)]
    path = "/".join(["x" + group for group in groups[:-1]] + groups[-1:])
    return f"tlog/tile/{kind}/{path}" + ("" if width == 256 else f".p/{width}")


def check_tile(read, kind, index, width, expected):
    path, full = tile_path(kind, index, width), tile_path(kind, index, 256)
    data = read(path)
    if data is None:  # A partial tile may go when the full one is there, and is its beginning.
        data = (read(full) or b"")[:len(expected)]
    need(data == expected, f"{path}: it is missing, or not what the log makes it")


def check_tiles(read, entries, leaves):
    """The tiles of a log with these entries, byte for byte."""
    level, hashes = 0, leaves
    while hashes:
        for first in range(0, len(hashes), 256):
            tile = hashes[first:first + 256]
            check_tile(read, level, first // 256, len(tile), b"".join(tile))
            if level == 0:
                bundle = b"".join(struct.pack(">H", len(entry)) + entry for entry in entries[first:first + 256])
                check_tile(read, "entries", first // 256, len(tile), bundle)
        full = len(hashes) // 256
        level, hashes = level + 1, [root(hashes[n * 256:n * 256 + 256]) for n in range(full)]


def check_blobs(read, entries):
    named = {digest: seq for seq, entry in reversed(list(enumerate(entries))) for digest in json.loads(entry).get("blobs", {}).values()}
    for digest, seq in named.items():
        algorithm, value = digest.split(":")
        path = f"blobs/sha256/{value[:2]}/{value}"
        need(algorithm == "sha256" and sha256(read(path)).hex() == value, f"{path}: entry {seq} names it, and it is damaged")
    return len(named)


def verify(read, files, vkey, earlier=None):
    """`read` gives a file's bytes by its path, or none; `files` are the paths of the log's segments."""
    def must_read(path):
        data = read(path)
        need(data is not None, f"{path}: it is missing")
        return data

    size, signed_root = read_checkpoint(must_read("tlog/checkpoint"), vkey)
    entries, leaves = read_log(must_read, files)
    need(len(entries) >= size, f"the checkpoint is of {size} entries, the log has {len(entries)}")
    need(root(leaves[:size]) == signed_root, f"the log's root over {size} entries is not the signed one")
    if earlier is not None:
        old_size, old_root = read_checkpoint(earlier, vkey)
        need(old_size <= len(entries), f"the earlier checkpoint is of {old_size} entries, the log has {len(entries)}")
        need(root(leaves[:old_size]) == old_root, "the log was rewritten since the earlier checkpoint")
    check_tiles(read, entries[:size], leaves[:size])
    return size, entries, leaves, check_blobs(must_read, entries)


def main():
    arguments = argparse.ArgumentParser(description="Verify a copy of a Holdfast ledger.")
    arguments.add_argument("dir", type=Path)
    arguments.add_argument("--key", required=True, help="the log's vkey, from somebody you trust")
    arguments.add_argument("--from", dest="earlier", type=Path, help="a checkpoint that you kept earlier")
    arguments.add_argument("--prove", type=int, metavar="SEQ", help="check the entry's inclusion by its path, and print it")
    given = arguments.parse_args()
    read = lambda path: (given.dir / path).read_bytes() if (given.dir / path).is_file() else None
    files = sorted(f"log/{path.name}" for path in (given.dir / "log").glob("*.log"))
    try:
        size, entries, leaves, blobs = verify(read, files, given.key, given.earlier.read_bytes() if given.earlier else None)
        if given.prove is not None:
            need(0 <= given.prove < size, f"entry {given.prove} is not below the checkpoint's size {size}")
            path = inclusion(leaves[:size], given.prove)
            proven = root_of_inclusion(leaf(entries[given.prove]), given.prove, size, path)
            need(proven == root(leaves[:size]), "the inclusion proof does not hold")
            print(entries[given.prove].decode())
    except (Bad, InvalidSignature, ValueError, KeyError, IndexError) as error:
        sys.exit(f"NOT VERIFIED: {error or 'a signature is wrong'}")
    print(f"verified: {len(entries)} entries, {size} of them signed, {blobs} blobs, root {root(leaves).hex()}", file=sys.stderr)


if __name__ == "__main__":
    main()
