"""The official Python SDK, unmodified, sends through a server of the team's own: aiosmtpd on loopback.

Environment: BASE_URL (…/api/v1), SMTP and SUBMISSION (host:port), ROOT_KEY. Prints one line per check; fails loudly.
"""

import http.server
import json
import os
import queue
import smtplib
import threading
import time
import warnings
from email import message_from_bytes
from email.message import EmailMessage

import httpx
import sendmux_management as management_sdk
import sendmux_sending as sending_sdk
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from sendmux_core.errors import SendmuxApiError
from sendmux_management import models as m
from sendmux_management.api import BillingApi, EmailsApi, SendingAccountsApi, WebhooksApi
from sendmux_sending import models as s
from standardwebhooks.webhooks import Webhook

BASE, ROOT = os.environ["BASE_URL"], os.environ["ROOT_KEY"]
SMTP_HOST, SMTP_PORT = os.environ["SMTP"].rsplit(":", 1)
SUBMISSION_HOST, SUBMISSION_PORT = os.environ["SUBMISSION"].rsplit(":", 1)
PATIENCE = 30


def check(what, condition):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def wait(probe, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.1)  # stays within the key's rate limit
    raise SystemExit(f"FAILED: {what} never happened")


class Server:
    """A submission server that wants a password and knows nobody called nobody@."""

    def __init__(self):
        self.taken = queue.Queue()

    def login(self, server, session, envelope, mechanism, data):
        return AuthResult(success=data.login == b"ann" and data.password == b"correct horse")

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        self.taken.put((envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        return "250 2.0.0 queued as X1"


class Receiver(http.server.BaseHTTPRequestHandler):
    received = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Receiver.received.put((dict(self.headers), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


warnings.simplefilter("ignore")  # aiosmtpd warns of passwords without TLS: on loopback that is what is meant
own = Server()
controller = Controller(
    own, hostname="127.0.0.1", port=0, auth_required=True, auth_require_tls=False, authenticator=own.login
)
# Port 0 cannot be asked back before aiosmtpd checks that it answers; so a free one is found here.
import socket  # noqa: E402

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    controller.port = free.getsockname()[1]
controller.start()

root = management_sdk.create_management_client(api_key=ROOT.replace("smx_inf_", "smx_root_"), base_url=BASE)
plain = httpx.Client(base_url=BASE, headers={"Authorization": f"Bearer {ROOT}"}, timeout=PATIENCE)


def post(path, body):
    answer = plain.post(path, json=body)
    if answer.status_code >= 300:
        raise SystemExit(f"FAILED: POST {path}: {answer.status_code} {answer.text}")
    return answer.json()["data"]


# An account, a group, and a worker's key that may send through that group alone.
accounts = SendingAccountsApi(root)
account = accounts.management_create_provider(
    idempotency_key="judge-account",
    provider_create_body=m.ProviderCreateBody(
        name="Our server", smtp_host="127.0.0.1", smtp_port=controller.port, smtp_protocol="none",
        smtp_username="ann", smtp_password="correct horse",
    ),
).data
check("an account is created and never shows its password", account.has_smtp_password and "correct horse" not in account.to_json())
tested = accounts.management_test_provider(account.id, idempotency_key="judge-test").data
check(f"the connection test logs in: {tested.message}", tested.success)
check("accounts are counted", accounts.management_get_provider_stats().data.total >= 1)
check("their limit is shown", accounts.management_get_provider_limits().data.sending_accounts.max_allowed == 200)
group = post("/delivery-groups", {"name": "Workers", "members": [{"provider_id": account.id}]})
key = post("/keys", {
    "kind": "sending", "name": "worker", "send_scope": {"type": "group", "group_public_ids": [group["id"]]},
})
check("a sending key comes in both spellings", key["secret"].startswith("smx_snd_") and key["secret_alternate"].startswith("smx_mbx_"))

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
hook = WebhooksApi(root).management_create_webhook(
    webhook_create_body=m.WebhookCreateBody(
        url=f"http://127.0.0.1:{server.server_port}/in",
        event_types=["message.delivered", "message.bounced", "message.rejected"],
    ),
).data

stream = queue.Queue()


def follow():
    with httpx.stream("GET", f"{BASE}/events/stream", headers={"Authorization": f"Bearer {ROOT}"}, timeout=None) as lines:
        for line in lines.iter_lines():
            if line.startswith("data: "):
                stream.put(json.loads(line[len("data: "):]))


threading.Thread(target=follow, daemon=True).start()

balance = BillingApi(root).management_list_balance().data
worker = sending_sdk.create_sending_client(api_key=key["secret_alternate"], base_url=BASE)
emails = sending_sdk.EmailsApi(worker)


def request(to, subject):
    return s.EmailSendRequest(
        var_from=s.Address(email="worker@postlog.test", name="Worker"), to=s.Address(email=to), subject=subject,
        html_body="<p>Hello <b>you</b></p>", text_body="Hello you",
    )


# One mail, repeated under its key: one effect.
first = emails.sending_send_email(request("zoe@example.org", "One"), idempotency_key="one").data
again = emails.sending_send_email(request("zoe@example.org", "One"), idempotency_key="one").data
check("a repeated request has one effect", first.message_id == again.message_id and first.status == "queued")
mail_from, recipients, content = own.taken.get(timeout=PATIENCE)
parsed = message_from_bytes(content)
check("our server took it", recipients == ["zoe@example.org"] and parsed["Subject"] == "One")
check("it is signed by its domain or says nothing of it", parsed["From"].endswith("<worker@postlog.test>") and parsed["Message-ID"])

# A hundred at once; one of them to somebody whom our server does not know.
people = [f"p{n}@example.org" for n in range(99)] + ["nobody@example.org"]
batch = emails.sending_send_email_batch(
    s.BatchSendRequest(messages=[request(to, "Batch") for to in people]), idempotency_key="hundred"
).data
check("a batch of 100 is taken", batch.summary.queued == 100 and batch.summary.failed == 0)
taken = set()
while len(taken) < 99:
    _, recipients, _ = own.taken.get(timeout=PATIENCE)
    taken.update(recipients)
check("our server took 99 of them", taken == set(people[:99]))

# And one by SMTP, with the same key as the password.
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "worker@postlog.test", "yan@example.org", "By SMTP"
message.set_content("Hello")
with smtplib.SMTP(SUBMISSION_HOST, int(SUBMISSION_PORT)) as smtp:
    smtp.login("worker", key["secret"])
    smtp.send_message(message)
_, recipients, content = own.taken.get(timeout=PATIENCE)
check("a mail handed in by SMTP goes the same way", recipients == ["yan@example.org"] and b"By SMTP" in content)

# What became of each recipient: the delivery log, the stream, the webhook.
logs = EmailsApi(root)


def all_logs():
    found, cursor = [], None
    while True:
        page = logs.management_list_email_logs(limit=100, cursor=cursor)
        found += page.data
        if not page.pagination.has_more:
            return found
        cursor = page.pagination.next_cursor


settled = wait(lambda: [x for x in [all_logs()] if len(x) == 102 and all(i.status != "pending" for i in x)], "all outcomes in the log")[0]
failed = [x for x in settled if x.status != "sent"]
check("the log tells of 101 sent and one refused", len(failed) == 1)
detail = logs.management_get_email_log(failed[0].id).data
check("and why", detail.recipients[0].email == "nobody@example.org" and "no such user" in (detail.recipients[0].reason or ""))
check("the metrics add up", logs.management_get_email_metrics(window="24h").data.summary.total >= 102)

types, payloads = {}, {}


def streamed(kind):
    while not stream.empty():
        event = stream.get()
        types.setdefault(event["type"], []).append(event)
    return types.get(kind)


def hooked(kind):
    while not Receiver.received.empty():
        headers, body = Receiver.received.get()
        payload = Webhook(hook.secret).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
        payloads[payload["id"]] = payload
    return [p for p in payloads.values() if p["type"] == kind]


# What the account's server refuses at once was never on its way: that is a rejection, not a bounce.
event = wait(lambda: streamed("message.rejected"), "the refusal on the team's stream")[0]
check("the stream tells of the refusal", event["data"]["recipients"] == ["nobody@example.org"])
check("the webhook tells of it, signed", wait(lambda: hooked("message.rejected"), "the refusal at the webhook")[0]["data"]["sendmux_message_id"])

# A bounce that comes back later, as a mail to the envelope sender of what was sent.
report = f"""From: MAILER-DAEMON@example.org\r
To: {mail_from}\r
Subject: Undelivered Mail Returned to Sender\r
Date: Sat, 21 Nov 2026 12:00:00 +0000\r
Message-ID: <bounce-1@example.org>\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r
\r
--b\r
Content-Type: text/plain\r
\r
Your mail could not be delivered.\r
--b\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.example.org\r
\r
Final-Recipient: rfc822; zoe@example.org\r
Action: failed\r
Status: 5.1.1\r
Diagnostic-Code: smtp; 550 5.1.1 user unknown\r
\r
--b--\r
"""
with smtplib.SMTP(SMTP_HOST, int(SMTP_PORT)) as smtp:
    smtp.sendmail("", [mail_from], report)


def suppressed():
    return [x for x in plain.get("/suppressions", params={"limit": 100}).json()["data"] if x["email"] == "zoe@example.org"]


event = wait(lambda: streamed("message.bounced"), "the bounce on the team's stream")[0]
check("the stream tells of the bounce", event["data"]["bounce_type"] == "Permanent" and event["data"]["recipients"] == ["zoe@example.org"])
check("the webhook tells of it, signed", wait(lambda: hooked("message.bounced"), "the bounce at the webhook")[0]["id"] == event["id"])
check("a hard bounce suppresses its address", wait(suppressed, "the suppression of zoe@example.org")[0]["causes"][0]["reason"] == "hard_bounce")
emails.sending_send_email(request("zoe@example.org", "Two"))
entry = wait(lambda: [x for x in all_logs() if x.subject == "Two" and x.status == "rejected"], "the rejection of a suppressed recipient")[0]
detail = logs.management_get_email_log(entry.id).data
check("a suppressed recipient is not written to", detail.recipients[0].status == "rejected")

# Money, usage, and who did it.
usage = plain.get("/billing/usage").json()["data"]["usage"]
units = sum(x["units"] for x in usage if x["meter"] == "outgoing_recipients")
check(f"usage counts the accepted recipients ({units})", units == 101)
after = BillingApi(root).management_list_balance().data
check("the balance has moved by their price", round((float(after.balance_consumed) - float(balance.balance_consumed)) * 1e9) == 101 * 150_000)
check("transactions are listed", len(BillingApi(root).management_list_transactions(limit=10).data) >= 1)
events = plain.get("/audit/events", params={"limit": 100}).json()["data"]
accepted = [x for x in events if x["type"] == "outbound.accepted"]
check("the audit log names the key", accepted and all(x["key_id"] == key["id"] for x in accepted))

# Bad input is refused by the name of the field.
for change, field in [({"subject": "a\r\nBcc: x@example.org"}, "subject"), ({"to": {"email": "no address"}}, "to")]:
    body = {"from": {"email": "worker@postlog.test"}, "to": {"email": "a@example.org"}, "subject": "x", "text_body": "x", **change}
    answer = httpx.post(f"{BASE}/emails/send", json=body, headers={"Authorization": f"Bearer {key['secret']}"})
    check(f"{field} is refused by name", answer.status_code in (400, 422) and answer.json()["error"]["param"].startswith(field))
try:
    emails.sending_send_email(s.EmailSendRequest(
        var_from=s.Address(email="me@not-ours.example"), to=s.Address(email="a@example.org"), subject="x", html_body="x"))
    check("a sender of somebody else's domain is refused", False)
except SendmuxApiError as e:
    check("a sender of somebody else's domain is refused", e.status_code in (403, 422))
controller.stop()
print("all checks passed")
