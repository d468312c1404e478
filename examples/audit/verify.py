#!/usr/bin/env python3
"""Verifies a copy of a Holdfast ledger, from the format's description alone (daemon/ledger/README.md).

    verify.py DIR --key VKEY [--from CHECKPOINT] [--prove SEQ]

Needs the standard library and `cryptography`. Uses none of Holdfast's code, and writes nothing.
"""

import argparse
import base64
import functools
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
    for byte in range(0 if table else 256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return functools.reduce(lambda crc, byte: table[(crc ^ byte) & 255] ^ crc >> 8, data, 0xFFFFFFFF) ^ 0xFFFFFFFF


# RFC 6962: a tree is a list of leaf hashes; while it grows, the roots of its complete subtrees, [leaves, hash], largest first.
def leaf(entry):
    return sha256(b"\0" + entry)


def node(left, right):
    return sha256(b"\1" + left + right)


def push(peaks, hash):
    peaks.append([1, hash])
    while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
        count, right = peaks.pop()
        peaks[-1] = [count * 2, node(peaks[-1][1], right)]


def root_of_peaks(peaks):
    return functools.reduce(lambda right, left: node(left, right), [hash for _, hash in reversed(peaks)]) if peaks else sha256(b"")


def root(leaves):
    peaks = []
    for hash in leaves:
        push(peaks, hash)
    return root_of_peaks(peaks)


def inclusion(leaves, index):
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:k], leaves[k:]
    return inclusion(left, index) + [root(right)] if index < k else inclusion(right, index - k) + [root(left)]


def root_of_inclusion(hash, index, size, path):
    need((size > 1) == bool(path), "the inclusion proof has another length")
    if size == 1:
        return hash
    k = 1 << (size - 1).bit_length() - 1
    if index < k:
        return node(root_of_inclusion(hash, index, k, path[:-1]), path[-1])
    return node(path[-1], root_of_inclusion(hash, index - k, size - k, path[:-1]))


def parse_key(vkey):
    """Name, and the kind's byte before the key's 32."""
    name, key_id, key = vkey.split("+", 2)
    public = base64.b64decode(key, validate=True)
    need(public[0] == 1 and len(public) == 33 and key_id == sha256(f"{name}\n".encode() + public)[:4].hex(), "it is not an Ed25519 vkey")
    return name, public


def read_note(data, name, publics):
    """The lines of a signed note, and which of the keys signed it under that name."""
    text, gap, signatures = data.decode().rpartition("\n\n")
    need(gap and signatures.endswith("\n") and not re.search(r"[\x00-\x09\x0b-\x1f]", text), "it is not a signed note")
    ids, signers = {sha256(f"{name}\n".encode() + public)[:4]: public for public in publics}, set()
    for line in signatures[:-1].split("\n"):
        dash, by, encoded = (line.split(" ") + ["", ""])[:3]
        signature = base64.b64decode(encoded, validate=True)
        need(line == f"\u2014 {by} {base64.b64encode(signature).decode()}" and by and len(signature) > 4, "a signature line is malformed")
        if by == name and signature[:4] in ids:
            Ed25519PublicKey.from_public_bytes(ids[signature[:4]][1:]).verify(signature[4:], f"{text}\n".encode())
            signers.add(ids[signature[:4]])
    return text.split("\n"), signers


def known_keys(vkey, entries):
    """The key that is trusted, and those that the log goes over to or comes from: each with the last size that it signs."""
    name, public = parse_key(vkey)
    known = {public: 1 << 64}
    for seq, entry in enumerate(entries):
        if entry["kind"] == "log-key":
            data = entry["body"]["note"].encode()
            lines, _ = read_note(data, name, [])
            (_, old), (_, new) = keys = [parse_key(line) for line in lines[2:]]
            need(lines[:2] == ["holdfast.dev/log-key/v1", keys[0][0]] and keys[0][0] == keys[1][0], f"entry {seq}: it changes no key")
            need(read_note(data, keys[0][0], [old, new])[1] == {old, new}, f"entry {seq}: one of the keys did not sign")
            if old in known:
                known[old] = min(seq, known[old])
                known.setdefault(new, 1 << 64)
            elif new in known:
                known[old] = seq
    return name, known


def read_checkpoint(data, name, known, epochs):
    """Size and root; the log must have an epoch of that name."""
    origin = data.decode().partition("\n")[0]
    (named, size, encoded, *rest), signers = read_note(data, origin, known)
    need(not rest and size == str(int(size)), "it is no checkpoint")
    need(origin in [name] * (1 in epochs) + [f"{name}/{epoch}" for epoch in epochs if epoch > 1], f"it is of the log {origin}")
    need(signers and all(int(size) <= known[signer] for signer in signers), "it is signed by none of the keys, or by one replaced before")
    return int(size), base64.b64decode(encoded, validate=True)


def read_log(read, files):
    """All committed entries, their leaves and epochs; every checksum and every commit's root is checked on the way."""
    entries, leaves, peaks, committed, epochs = [], [], [], 0, [1]
    for file in files:
        data = read(file)
        need(data[:8] == b"HFLOG\0\0\1" and len(data) >= 32, f"{file}: it is no segment")
        epoch, first, crc, zero = struct.unpack(">QQII", data[8:32])
        need(crc == crc32c(data[:24]) and zero == 0 and epoch >= epochs[-1], f"{file}: the header is damaged")
        need(first == len(entries) and file == f"log/{first:020}.log", f"{file}: it does not follow the segment before")
        epochs, at = epochs + [epoch], 32
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
    return entries, leaves, epochs


def tile_path(kind, index, width):
    digits = f"{index:0{-(-len(str(index)) // 3) * 3}}"
    path = "/".join([f"x{digits[n:n + 3]}" for n in range(0, len(digits) - 3, 3)] + [digits[-3:]])
    return f"tlog/tile/{kind}/{path}" + ("" if width == 256 else f".p/{width}")


def check_tile(read, kind, index, width, expected, may_be_gone=False):
    data = read(tile_path(kind, index, width))
    if data is None:  # A partial tile may go when the full one is there, and is its beginning.
        data = (read(tile_path(kind, index, 256)) or b"")[:len(expected)]
    need(data == expected or may_be_gone and not data, f"{tile_path(kind, index, width)}: it is missing, or not what the log makes it")


def check_tiles(read, entries, leaves, bundles_from):
    """The tiles of a log with these entries, byte for byte."""
    level, hashes = 0, leaves
    while hashes:
        for first in range(0, len(hashes), 256):
            tile = hashes[first:first + 256]
            check_tile(read, level, first // 256, len(tile), b"".join(tile))
            if level == 0:
                bundle = b"".join(struct.pack(">H", len(entry)) + entry for entry in entries[first:first + 256])
                check_tile(read, "entries", first // 256, len(tile), bundle, first < bundles_from)
        level, hashes = level + 1, [root(hashes[n * 256:n * 256 + 256]) for n in range(len(hashes) // 256)]


def check_blobs(read, entries):
    named = {digest: seq for seq, entry in reversed(list(enumerate(entries))) for digest in entry.get("blobs", {}).values()}
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

    checkpoint = must_read("tlog/checkpoint")
    entries, leaves, epochs = read_log(must_read, files)
    parsed = [json.loads(entry) for entry in entries]
    name, known = known_keys(vkey, parsed)
    size, signed_root = read_checkpoint(checkpoint, name, known, epochs[-1:])
    need(len(entries) >= size, f"the checkpoint is of {size} entries, the log has {len(entries)}")
    need(root(leaves[:size]) == signed_root, f"the log's root over {size} entries is not the signed one")
    if earlier is not None:
        old_size, old_root = read_checkpoint(earlier, name, known, epochs)
        need(old_size <= len(entries), f"the earlier checkpoint is of {old_size} entries, the log has {len(entries)}")
        need(root(leaves[:old_size]) == old_root, "the log was rewritten since the earlier checkpoint")
    pruned = [entry["body"]["bundles_from"] for entry in parsed if entry["kind"] == "retention"]
    check_tiles(read, entries[:size], leaves[:size], max(pruned, default=0))
    return size, entries, leaves, check_blobs(must_read, parsed)


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
            proven = root_of_inclusion(leaf(entries[given.prove]), given.prove, size, inclusion(leaves[:size], given.prove))
            need(proven == root(leaves[:size]), "the inclusion proof does not hold")
            print(entries[given.prove].decode())
    except (Bad, InvalidSignature, ValueError, KeyError, IndexError) as error:
        sys.exit(f"NOT VERIFIED: {error or 'a signature is wrong'}")
    print(f"verified: {len(entries)} entries, {size} of them signed, {blobs} blobs, root {root(leaves).hex()}", file=sys.stderr)


if __name__ == "__main__":
    main()
