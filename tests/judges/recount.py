"""Counts a team's bill again from an export of its log, and prints it as JSON.

Written from the names and meanings of the events alone; shares no code with the program. Needs the export only, personal halves
may be left out of it:

    python recount.py DIRECTORY KEY
"""

import collections
import datetime
import json
import pathlib
import struct
import sys

import verify_export


def records(directory, key):
    """Yields name, facts, actor and time of each event, in order; the export must hold."""
    files = verify_export.read(directory)
    verify_export.verify(files, key)
    manifest = verify_export.read_manifest(key.open("manifest", files["manifest"]))
    for name, *_ in manifest["segments"]:
        for entry in verify_export.fields(files[name], name)[3:]:
            hashed = verify_export.fields(entry, name)[0]
            record = verify_export.fields(hashed, name)
            (at,) = struct.unpack(">q", record[13])
            yield record[5].decode(), json.loads(record[7]), record[9].decode(), at


def recount(events):
    units = collections.Counter()
    money = dict.fromkeys(("purchased", "consumed", "held"), 0)
    for name, facts, actor, at in events:
        day = datetime.datetime.fromtimestamp(at // 1_000_000, datetime.timezone.utc).date().isoformat()

        def count(meter, amount, mailbox, who):
            units[meter, day, mailbox, who] += amount

        if name in ("message.received", "message.filed"):
            count("stored_bytes", facts["size_bytes"], facts["mailbox"], actor)
        if name == "message.received":
            count("inbound_messages", 1, facts["mailbox"], actor)
        if name == "message.destroyed":
            count("stored_bytes", -facts["size_bytes"], facts["mailbox"], actor)
        if name in ("balance.topped_up", "balance.adjusted"):
            money["purchased"] += facts["amount_nanos"]
        if name == "balance.usage_charged":
            money["consumed"] += facts["amount_nanos"]
        booking = facts.get("booking", {}) if name.startswith("outbound.") else {}
        money["held"] += booking.get("held_nanos", 0) - booking.get("released_nanos", 0)
        money["consumed"] += booking.get("charged_nanos", 0)
        if booking.get("charged_units"):
            meter = "managed_recipients" if facts.get("managed") else "outgoing_recipients"
            mail = facts["mail"]
            who = f"key:{mail['key']}" if mail.get("key") else actor
            count(meter, booking["charged_units"], mail.get("mailbox"), who)
    rows = [[*key, amount] for key, amount in units.items()]
    return {"rows": sorted(rows, key=lambda row: [str(cell) for cell in row]), "nanos": money}


def main():
    directory, key = sys.argv[1:]
    print(json.dumps(recount(records(pathlib.Path(directory), verify_export.Key(key)))))


if __name__ == "__main__":
    main()
