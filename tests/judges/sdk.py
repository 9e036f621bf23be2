"""The official Python SDK, unmodified, against a running Postlog: management, mailbox, stream and webhook verification.

Environment: BASE_URL (…/api/v1), SMTP (host:port), ROOT_KEY, MAILBOX_KEY. Prints one line per check; fails loudly.
"""

import http.server
import os
import queue
import smtplib
import threading
import time
from email.message import EmailMessage

import sendmux_mailbox as mailbox_sdk
import sendmux_management as management_sdk
from sendmux_core.errors import SendmuxApiError
from sendmux_mailbox.api import MailboxAPIApi
from sendmux_mailbox.events import iter_mailbox_events
from sendmux_mailbox.models import PatchMailboxMessageBody
from sendmux_management.api import ConnectionApi, InboxesApi, MailboxesApi, MailboxFiltersApi, WebhooksApi
from sendmux_management import models as m
from standardwebhooks.webhooks import Webhook

BASE, ROOT, KEY = os.environ["BASE_URL"], os.environ["ROOT_KEY"], os.environ["MAILBOX_KEY"]
SMTP_HOST, SMTP_PORT = os.environ["SMTP"].rsplit(":", 1)
PATIENCE = 30


def check(what, condition):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def mail(to, subject, text="Hello, agent!"):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ann <ann@example.com>", to, subject
    message["Message-ID"] = f"<{time.monotonic_ns()}@example.com>"
    message.set_content(text)
    with smtplib.SMTP(SMTP_HOST, int(SMTP_PORT)) as smtp:
        smtp.send_message(message)


class Receiver(http.server.BaseHTTPRequestHandler):
    received = queue.Queue()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Receiver.received.put((dict(self.headers), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def wait(probe, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.1)  # stays within the key's rate limit
    raise SystemExit(f"FAILED: {what} never happened")


# The SDK spells infrastructure keys smx_root_; the same secret works under either label.
root = management_sdk.create_management_client(api_key=ROOT.replace("smx_inf_", "smx_root_"), base_url=BASE)
box = mailbox_sdk.create_mailbox_client(api_key=KEY, base_url=BASE)

connection = ConnectionApi(root).management_get_connection().data
check("GET /me names the team", connection.team.id.startswith("team_"))

boxes = MailboxesApi(root)
first = boxes.management_list_mailboxes(limit=10).data[0]
check("the sandbox mailbox is listed", first.email == "agent@postlog.test")
made = boxes.management_create_mailbox(
    idempotency_key="judge-1",
    management_create_mailbox_request=m.ManagementCreateMailboxRequest(email="judge@postlog.test", display_name="Judge"),
)
created = made.data
check("a mailbox is created with a credential", created.mailbox.email == "judge@postlog.test" and created.credential.secret)
check("the mailbox can be read", boxes.management_get_mailbox(created.mailbox.id).data.display_name == "Judge")
availability = boxes.management_check_mailbox_availability(email="judge@postlog.test").data
check("its address is taken now", availability.available is False and availability.reason == "taken")

hooks = WebhooksApi(root)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
hook = hooks.management_create_webhook(
    idempotency_key="judge-hook",
    webhook_create_body=m.WebhookCreateBody(
        url=f"http://127.0.0.1:{server.server_port}/in", event_types=["message.received", "sendmux.test"]
    ),
).data
again = hooks.management_create_webhook(
    idempotency_key="judge-hook",
    webhook_create_body=m.WebhookCreateBody(
        url=f"http://127.0.0.1:{server.server_port}/in", event_types=["message.received", "sendmux.test"]
    ),
).data
check("repeating a creation repeats its answer", again.id == hook.id and again.secret == hook.secret)

test_event = hooks.management_test_webhook(hook.id, idempotency_key="judge-test").data.event_id
headers, body = Receiver.received.get(timeout=PATIENCE)
payload = Webhook(hook.secret).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
check("standardwebhooks verifies the test delivery", payload["id"] == test_event)

events = queue.Queue()


def follow():
    for event in iter_mailbox_events(box, close_after=60):
        events.put(event)


threading.Thread(target=follow, daemon=True).start()
api = MailboxAPIApi(box)
me = api.mailbox_get_me().data
check("GET /mailbox/me names the mailbox", me.email == "agent@postlog.test")
before = {x.id for x in api.mailbox_list_messages(limit=100).data}
# The stream may open after the first mail; so mails are sent until one is seen on it.
numbers = iter(range(1, 1000))


def seen_on_stream():
    mail("agent@postlog.test", f"Hello {next(numbers)}")
    try:
        return events.get(timeout=2)
    except queue.Empty:
        return None


event = wait(seen_on_stream, "a mail on the stream")
check("the stream tells of the mail", event.event_type == "message.received" and event.message.subject.startswith("Hello"))
message = api.mailbox_get_message(event.message.id).data
check("the message can be read", message.text_body.strip() == "Hello, agent!" and message.flags.seen is False)
updated = api.mailbox_update_message(event.message.id, patch_mailbox_message_body=PatchMailboxMessageBody(seen=True)).data
check("it can be marked as seen", updated.flags.seen is True)
check("its body can be read", api.mailbox_list_body(event.message.id).data.body.text.strip() == "Hello, agent!")
check("its clean content can be read", api.mailbox_list_content(event.message.id).data.body.text.strip() == "Hello, agent!")
check("the list has it", any(x.id == event.message.id for x in api.mailbox_list_messages(limit=100).data))
check("threads can be listed", len(api.mailbox_list_threads().data) >= 1)
check("the thread has it", any(x.id == event.message.id for x in api.mailbox_list_thread_messages(message.thread_id).data))
folders = {f.id: f for f in api.mailbox_list_folders().data}
check("the inbox counts it", folders["inbox"].total_messages >= 1)


def changes(**since):
    # The SDK wraps the two shapes of this answer.
    return api.mailbox_get_changes(**since).actual_instance.data


state = changes().new_state
mail("agent@postlog.test", "One more")
arrived = wait(lambda: changes(since_state=state).created, "the change feed")
check("the change feed tells of a new message", len(arrived) == 1)

headers, body = Receiver.received.get(timeout=PATIENCE)
payload = Webhook(hook.secret).verify(body.decode(), {k.lower(): v for k, v in headers.items()})
check("standardwebhooks verifies a mail's delivery", payload["type"] == "message.received")
attempts = wait(lambda: hooks.management_list_delivery(hook.id).data, "an attempt row")
check("attempts are listed", attempts[0].result == "success" and attempts[0].max_attempts == 8)
shown = hooks.management_get_delivery_payload(hook.id, attempts[0].id).data
check("an attempt's payload can be read", shown.payload.id == attempts[0].event_id)
rotated = hooks.management_rotate_webhook_secret(hook.id, idempotency_key="judge-rotate").data
check("a rotated secret differs", rotated.secret != hook.secret)
disabled = hooks.management_update_webhook(hook.id, webhook_update_body=m.WebhookUpdateBody(enabled=False)).data
check("a webhook can be disabled", disabled.enabled is False)
check("a webhook can be deleted", hooks.management_delete_webhook(hook.id).data.deleted is True)

key = boxes.management_create_mailbox_key(
    created.mailbox.id,
    idempotency_key="judge-key",
    management_create_mailbox_key_request=m.ManagementCreateMailboxKeyRequest(app_name="ci"),
)
check("a second credential works", MailboxAPIApi(
    mailbox_sdk.create_mailbox_client(api_key=key.data.credential.secret, base_url=BASE)).mailbox_get_me().data.email == "judge@postlog.test")
boxes.management_delete_mailbox_key(created.mailbox.id, key.data.credential.public_id)
try:
    MailboxAPIApi(mailbox_sdk.create_mailbox_client(api_key=key.data.credential.secret, base_url=BASE)).mailbox_get_me()
    check("a revoked credential is refused", False)
except SendmuxApiError as e:
    check("a revoked credential is refused", e.status_code == 401 and e.code == "authentication_required")

filters = MailboxFiltersApi(root).management_set_mailbox_filters(
    created.mailbox.id,
    set_filter_state_body=m.SetFilterStateBody.from_dict({"mode": "allowlist", "rules": [{"type": "allow", "pattern": "*@example.org"}]}),
).data
check("sender rules are set", filters.rules[0].pattern == "example.org")
try:
    mail("judge@postlog.test", "Not allowed")
    check("a sender outside the allowlist is refused", False)
except smtplib.SMTPRecipientsRefused as e:
    check("a sender outside the allowlist is refused", e.recipients["judge@postlog.test"][0] == 550)
check("a mailbox can be suspended", boxes.management_suspend_mailbox(created.mailbox.id, idempotency_key="s1").data.status == "suspended")
check("a mailbox can be resumed", boxes.management_resume_mailbox(created.mailbox.id, idempotency_key="r1").data.status == "active")
check("a mailbox can be deleted", boxes.management_delete_mailbox(created.mailbox.id).data.deleted is True)
check("the inbox log shows what was accepted", len(InboxesApi(root).management_list_inbox_logs().data) >= 2)
try:
    boxes.management_get_mailbox("mbx_" + "0" * 24)
    check("an unknown mailbox is a 404", False)
except SendmuxApiError as e:
    check("an unknown mailbox is a 404", e.status_code == 404 and e.code == "not_found" and e.retryable is False)
print("all checks passed")
