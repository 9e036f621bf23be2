"""Verifies an export of a team's log with the public key and nothing else.

Written from the description of the format alone, so that it and the program judge each other. Needs Python 3 and
`cryptography`, no installation and no network:

    python verify_export.py DIRECTORY KEY [KEPT_CHECKPOINT ...]
"""

import base64
import binascii
import hashlib
import json
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LEFT_OUT = {"nothing": (False, False), "personal": (True, False), "bodies": (False, True), "personal bodies": (True, True)}


class Fault(Exception):
    """The first thing that is wrong."""


def require(condition, message):
    if not condition:
        raise Fault(message)


def sha256(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def strict_base64(text):
    """Only the one text that gives these bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Fault("not base64") from None
    require(base64.b64encode(data).decode() == text, "not base64 as it is written")
    return data


def decimal(text):
    require(text.isascii() and text.isdigit() and str(int(text)) == text, f"{text!r} is not a number")
    return int(text)


def hexadecimal(text):
    require(len(text) == 64 and all(c in "0123456789abcdef" for c in text), f"{text!r} is not a hash")
    return bytes.fromhex(text)


class Key:
    def __init__(self, text):
        self.name, key_hash, data = text.strip().split("+", 2)
        data = strict_base64(data)
        require(len(data) == 33 and data[0] == 1, "not an Ed25519 key")
        self.id = sha256(self.name.encode() + b"\n" + data)[:4]
        require(self.id.hex() == key_hash, "the key's hash is another")
        self.public = Ed25519PublicKey.from_public_bytes(data[1:])

    def open(self, name, note):
        """Returns the text of a signed note."""
        try:
            text, _, signatures = note.decode().rpartition("\n\n")
        except UnicodeDecodeError:
            raise Fault(f"{name}: not a signed note") from None
        require(text and signatures.endswith("\n"), f"{name}: not a signed note")
        signed = False
        for line in signatures[:-1].split("\n"):
            words = line.split(" ")
            require(len(words) == 3 and words[0] == "\u2014", f"{name}: not a signed note")
            data = strict_base64(words[2])
            if words[1] == self.name and data[:4] == self.id:
                try:
                    self.public.verify(data[4:], (text + "\n").encode())
                except InvalidSignature:
                    raise Fault(f"{name}: the signature does not fit") from None
                signed = True
        require(signed, f"{name}: not signed by {self.name}")
        return text + "\n"

    def checkpoint(self, name, note):
        """Returns origin, size and root."""
        lines = self.open(name, note)[:-1].split("\n")
        require(len(lines) >= 3, f"{name}: not a checkpoint")
        root = strict_base64(lines[2])
        require(len(root) == 32, f"{name}: not a checkpoint")
        return lines[0], decimal(lines[1]), root


class Tree:
    """The right edge of a Merkle tree (RFC 9162 section 2.1.1)."""

    def __init__(self):
        self.size, self.peaks = 0, []

    def push(self, data):
        node, n = sha256(b"\0", data), self.size
        while n & 1:
            node, n = sha256(b"\1", self.peaks.pop(), node), n >> 1
        self.peaks.append(node)
        self.size += 1

    def root(self):
        if not self.peaks:
            return sha256()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = sha256(b"\1", peak, root)
        return root


def fields(data, what):
    """Splits length-prefixed fields."""
    at, found = 0, []
    while at < len(data):
        require(at + 8 <= len(data), f"{what} cannot be read")
        (length,) = struct.unpack_from(">Q", data, at)
        require(at + 8 + length <= len(data), f"{what} cannot be read")
        found.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return found


def read_manifest(text):
    lines = text[:-1].split("\n")
    names = ["origin", "team", "records", "head", "checkpoint", "left-out"]
    require(len(lines) >= 7 and lines[0] == "postlog/export/1", "not a manifest")
    manifest = {}
    for name, line in zip(names, lines[1:7]):
        require(line.startswith(name + " "), "not a manifest")
        manifest[name] = line[len(name) + 1 :]
    require(manifest["left-out"] in LEFT_OUT, "not a manifest")
    manifest["records"] = decimal(manifest["records"])
    manifest["head"], manifest["checkpoint"] = hexadecimal(manifest["head"]), hexadecimal(manifest["checkpoint"])
    manifest["segments"] = []
    for line in lines[7:]:
        words = line.split(" ")
        require(len(words) == 7 and words[0] == "segment", "not a manifest")
        first, last, size = map(decimal, words[2:5])
        manifest["segments"].append((words[1], first, last, size, hexadecimal(words[5]), hexadecimal(words[6])))
    return manifest


class Walk:
    def __init__(self, manifest):
        self.manifest, self.position, self.hash, self.tree, self.expected = manifest, 0, bytes(32), Tree(), {}
        self.no_personal, self.no_bodies = LEFT_OUT[manifest["left-out"]]

    def expect(self, key, name, note):
        origin, size, root = key.checkpoint(name, note)
        require(origin == f"{key.name}/{self.manifest['team']}", f"{name}: of another log")
        self.expected.setdefault(size, []).append((name, root))
        return size

    def entry(self, name, entry):
        place = f"{name}: the record at position {self.position + 1}"
        parts = fields(entry, place)
        require(len(parts) >= 4, f"{place} cannot be read")
        hashed, stored, salt, personal = parts[:4]
        record = fields(hashed, place)
        require(len(record) == 14, f"{place} cannot be read")
        require(len(record[2]) == 8 and struct.unpack(">Q", record[2]) == (self.position + 1,), f"{place} is missing")
        require(record[0].decode(errors="replace") == self.manifest["team"], f"{place} is of another team")
        computed = sha256(b"postlog/record/1\0", self.hash, hashed)
        require(computed == stored, f"{place} was changed")
        if salt or personal:
            require(not self.no_personal, f"{place} has a personal half")
            digest = sha256(b"postlog/personal/1\0", salt, personal)
            require(len(salt) == 16 and digest == record[8], f"{place} has another personal half")
        require(len(parts) % 2 == 0, f"{place} cannot be read")
        for blob, body in zip(parts[4::2], parts[5::2]):
            facts = json.loads(record[7])
            named = (facts.get("blob", "").encode(), facts.get("sha256"))
            require(named == (blob, hashlib.sha256(body).hexdigest()) and not self.no_bodies, f"{place} has another body")
        self.position, self.hash = self.position + 1, computed
        self.tree.push(computed)
        for checkpoint, root in self.expected.pop(self.position, []):
            require(root == self.tree.root(), f"{checkpoint}: not signed over the records up to {self.position}")

    def segment(self, files, segment):
        name, first, last, size, digest, head = segment
        require(name in files, f"{name} is missing: positions {first} to {last}")
        data = files[name]
        parts = fields(data, f"{name}: the record behind position {self.position}")
        opening = [b"postlog/segment/1", self.manifest["team"].encode(), self.manifest["left-out"].encode()]
        require(parts[:3] == opening, f"{name} is not of this export")
        for entry in parts[3:]:
            self.entry(name, entry)
        require(self.position == last, f"{name} ends at position {self.position} instead of {last}")
        sealed = len(data) == size and sha256(data) == digest and self.hash == head
        require(sealed, f"{name}: positions {first} to {last} are not those that were sealed")


def verify(files, key, kept=()):
    """Verifies an export, a dictionary of names and contents. Raises Fault, or returns how many events there are."""
    for name in ("manifest", "checkpoint"):
        require(name in files, f"{name} is missing")
    manifest = read_manifest(key.open("manifest", files["manifest"]))
    require(manifest["origin"] == f"{key.name}/{manifest['team']}", "the manifest is of another log")
    walk = Walk(manifest)
    size = walk.expect(key, "checkpoint", files["checkpoint"])
    require(size == manifest["records"], "manifest and checkpoint do not belong together")
    require(sha256(files["checkpoint"]) == manifest["checkpoint"], "manifest and checkpoint do not belong together")
    for name, note in kept:
        walk.expect(key, name, note)
    for segment in manifest["segments"]:
        walk.segment(files, segment)
    require((walk.position, walk.hash) == (manifest["records"], manifest["head"]), "the manifest is of other segments")
    for size, names in walk.expected.items():
        raise Fault(f"{names[0][0]}: signed at position {size}, but the log ends at {walk.position}")
    for name in files:
        known = name in ("manifest", "checkpoint") or any(name == segment[0] for segment in manifest["segments"])
        require(known, f"{name} was added")
    return walk.position


def read(directory):
    return {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


def main():
    directory, key, *kept = sys.argv[1:]
    try:
        events = verify(read(directory), Key(key), [(path, pathlib.Path(path).read_bytes()) for path in kept])
    except Fault as fault:
        print(f"verify_export: {fault}", file=sys.stderr)
        return 1
    print(f"the export holds: {events} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
