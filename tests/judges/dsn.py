"""Python's smtplib asks to be told what becomes of its mail (RFC 3461); its parser reads what the mailbox was told (RFC 3464).

Environment: BASE_URL (…/api/v1), SUBMISSION (host:port), ROOT_KEY, MAILBOX_KEY. Standard library only.
"""

import json
import os
import smtplib
import time
import urllib.error
import urllib.request
from email import message_from_bytes, policy
from email.message import EmailMessage

BASE, ROOT, KEY = os.environ["BASE_URL"], os.environ["ROOT_KEY"], os.environ["MAILBOX_KEY"]
HOST, PORT = os.environ["SUBMISSION"].rsplit(":", 1)
FAR = "simulator.postlog.test"


def check(what, condition):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def get(path, key=KEY):
    request = urllib.request.Request(BASE + path, headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def data(path, key=KEY):
    status, body = get(path, key)
    check(f"{path} answers", status == 200)
    return json.loads(body)["data"]


def submit(subject, notify, failing):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "agent@postlog.test", f"delivered@{FAR}", subject
    message["Message-ID"] = f"<{subject.lower()}@client.test>"
    message.set_content("the body of the mail\n")
    with smtplib.SMTP(HOST, int(PORT)) as smtp:
        smtp.login("agent", KEY)
        check("reports are offered", smtp.has_extn("dsn"))
        smtp.mail("agent@postlog.test", ["RET=FULL", "ENVID=QQ+2B314159"])
        for local in ("delivered", failing):
            code, said = smtp.rcpt(f"{local}@{FAR}", [notify, f"ORCPT=rfc822;old.{local}@client.test"])
            check(f"{local} is taken: {said}", code == 250)
        code, said = smtp.data(message.as_bytes())
        check(f"the mail is taken: {said}", code == 250)


def reports():
    """Returns the reports in the mailbox, as blocks of fields with the id of their thread."""
    found = []
    for message in data("/mailbox/messages?limit=50"):
        for number in range(12):
            status, part = get(f"/mailbox/messages/{message['id']}/attachments/att_{number}")
            if status == 200 and part.startswith(b"Reporting-MTA:"):
                whole = message_from_bytes(b"Content-Type: message/delivery-status\r\n\r\n" + part, policy=policy.SMTP)
                found.append((whole.get_payload(), message))
    return found


submit("Silent", "NOTIFY=NEVER", "bounce.soft")
submit("Asking", "NOTIFY=SUCCESS,FAILURE,DELAY", "bounce.hard")
deadline = time.monotonic() + 30
while len(told := reports()) < 2:
    check("the reports come in time", time.monotonic() < deadline)
    time.sleep(0.3)

by_action = {blocks[1]["Action"]: (blocks, message) for blocks, message in told}
check("one is of a failure and one of a delivery", sorted(by_action) == ["delivered", "failed"])
for action, local, status in [("failed", "bounce.hard", "5.1.1"), ("delivered", "delivered", "2.0.0")]:
    (mail, recipient), message = by_action[action]
    check("it names the mail as its sender did", mail["Original-Envelope-Id"] == "QQ+314159")
    check("it says who reports and since when", mail["Reporting-MTA"].startswith("dns; ") and mail["Arrival-Date"])
    check("it names the recipient as its sender did",
          recipient["Original-Recipient"] == f"rfc822; old.{local}@client.test")
    check("it names the recipient", recipient["Final-Recipient"] == f"rfc822; {local}@{FAR}")
    check(f"the status is {status}", recipient["Status"] == status)
    check("it is from the mail system", "mailer-daemon@postlog.test" in json.dumps(message["from"]))
(_, failed), _ = by_action["failed"]
check("it says why", failed["Diagnostic-Code"].startswith("smtp; 550 5.1.1 ") and failed["Remote-MTA"] == f"dns; {FAR}")
threads = {message["thread_id"] for _, message in told}
sent = [m["thread_id"] for m in data("/mailbox/messages?limit=50") if m.get("subject") == "Asking"]
check("both lie in the thread of the mail that they are about", sent and threads == set(sent))

# Nobody pays for what Postlog tells, and there is no third report.
time.sleep(1)
check("each is told once", len(reports()) == 2)


def rows(value):
    """Returns everything with a meter, however deep it lies."""
    if isinstance(value, dict):
        return ([value] if "meter" in value else []) + [row for inner in value.values() for row in rows(inner)]
    return [row for inner in value for row in rows(inner)] if isinstance(value, list) else []


arrived = [row for row in rows(data("/billing/usage", ROOT)) if row["meter"] == "inbound_messages"]
check(f"arrivals of reports are not metered: {arrived}", all(row.get("units", 0) == 0 for row in arrived))
print("all checks passed")
