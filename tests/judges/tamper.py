"""Changes an export in many ways and has verify_export.py find each: the number of octets changed is in CHANGES."""

import os
import random

from verify_export import Fault, Key, fields, read, verify

key = Key(os.environ["KEY"])
files = read(os.environ["EXPORT"])
events = verify(files, key)
assert events >= int(os.environ["EVENTS_MIN"]), events
draw = random.Random(int(os.environ.get("SEED", "1")))
segments = sorted(name for name in files if name.endswith(".segment"))


def found(changed, what):
    try:
        verify(changed, key)
    except Fault as fault:
        return str(fault)
    raise AssertionError(f"{what} went unnoticed")


def joined(parts):
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


for n in range(int(os.environ["CHANGES"])):
    name = draw.choice(segments if n % 4 else sorted(files))
    data = bytearray(files[name])
    at = draw.randrange(len(data))
    data[at] ^= draw.randrange(1, 256)
    found({**files, name: bytes(data)}, f"octet {at} of {name}")

for name in segments:
    parts = fields(files[name], name)
    opening, records = parts[:3], parts[3:]
    for n in sorted({0, len(records) // 2, len(records) - 1}):
        for what, changed in {
            "dropped": records[:n] + records[n + 1 :],
            "doubled": records[: n + 1] + records[n:],
            "swapped": records[:n] + records[n + 1 : n + 2] + [records[n]] + records[n + 2 :] if n + 1 < len(records) else [],
            "cut off": records[:n],
        }.items():
            assert "position" in found({**files, name: joined(opening + changed)}, f"record {n} of {name} {what}")
    found({**files, name: files[name][:-1]}, f"the last octet of {name}")
    found({other: data for other, data in files.items() if other != name}, f"{name} dropped")
    found({**files, "00009999.segment": files[name]}, f"{name} doubled")
for one, two in zip(segments, segments[1:]):
    found({**files, one: files[two], two: files[one]}, f"{one} and {two} swapped")
for name in ("manifest", "checkpoint"):
    found({other: data for other, data in files.items() if other != name}, f"{name} dropped")
print("all checks passed")
