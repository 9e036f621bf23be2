"""httpx-sse against a running Postlog: a stream that is cut resumes without a gap and without a repeat.

Environment: BASE_URL, SMTP, MAILBOX_KEY.
"""

import os
import smtplib
import time
from email.message import EmailMessage

import httpx
from httpx_sse import connect_sse

BASE, KEY = os.environ["BASE_URL"], os.environ["MAILBOX_KEY"]
HOST, PORT = os.environ["SMTP"].rsplit(":", 1)


def mail(subject):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.com", "agent@postlog.test", subject
    message["Message-ID"] = f"<{time.monotonic_ns()}@example.com>"
    message.set_content("x")
    with smtplib.SMTP(HOST, int(PORT)) as smtp:
        smtp.send_message(message)


def read(count, last_event_id=None):
    """Reads that many events and cuts the stream."""
    headers = {"Authorization": f"Bearer {KEY}"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    seen = []
    with httpx.Client(timeout=30) as client:
        with connect_sse(client, "GET", f"{BASE}/mailbox/events", headers=headers) as source:
            if not last_event_id:
                mail("resume 0")
            for event in source.iter_sse():
                seen.append((event.id, event.json()["message"]["subject"]))
                if len(seen) == count:
                    return seen


first = read(1)
for n in range(1, 6):
    mail(f"resume {n}")
seen = first + read(2, first[-1][0])
mail("resume 6")
seen += read(4, seen[-1][0])
subjects = [subject for _, subject in seen]
assert subjects == [f"resume {n}" for n in range(7)], subjects
assert len({event_id for event_id, _ in seen}) == 7
assert [i for i, _ in seen] == sorted(i for i, _ in seen), "ids sort like the log"
print("all checks passed")
