"""Postfix, unmodified, on the other side: it takes what we send, returns what it cannot deliver, and sends to us.

Environment: POSTLOG (the program). Everything else is made here, in a directory of its own, on loopback and high ports, and
ends with this script. Prints one line per check; fails loudly. Wants root: Postfix does.
"""

import ctypes
import email
import email.policy
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import dkim
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import dns.zone
import httpx

PATIENCE = 60
BATCH = 100
STORM = 500
SENDER = "Zoë Ångström 猫"


def check(what, condition):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


def wait(probe, what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.1)  # stays within the key's rate limit
    raise SystemExit(f"FAILED: {what} never happened")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"FAILED: {command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def ends_with_us():
    """Asks Linux to end a child with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Names:
    """A DNS server: `far.test` is Postfix; what a zone file says is added to it."""

    def __init__(self):
        self.records = {}
        self.add("far.test. 60 IN MX 10 mx.far.test.\nmx.far.test. 60 IN A 127.0.0.1\n")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def add(self, zone_file):
        zone = dns.zone.from_text(zone_file, origin=".", relativize=False, check_origin=False)
        for name, ttl, data in zone.iterate_rdatas():
            key = (name.to_text().lower(), data.rdtype)
            self.records.setdefault(key, dns.rrset.RRset(name, data.rdclass, data.rdtype)).add(data, ttl)

    def txt(self, name, timeout=5):
        """For the verifier of signatures."""
        found = self.records.get((name.decode().lower().rstrip(".") + ".", dns.rdatatype.TXT))
        return b"".join(found[0].strings) if found else None

    def serve(self):
        while True:
            asked, peer = self.socket.recvfrom(4096)
            query = dns.message.from_wire(asked)
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.AA | dns.flags.RA
            question = query.question[0]
            name = question.name.to_text().lower()
            found = self.records.get((name, question.rdtype))
            if found:
                answer.answer.append(found)
            elif not any(known == name for known, _ in self.records):
                answer.set_rcode(3)
            self.socket.sendto(answer.to_wire(max_size=4096), peer)


class Passwords:
    """What Postfix asks whether a password is right: the socket that saslauthd listens on elsewhere."""

    def __init__(self, directory):
        os.makedirs(directory)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(f"{directory}/mux")
        os.chmod(f"{directory}/mux", 0o777)
        self.socket.listen(64)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            with self.socket.accept()[0] as asked, asked.makefile("rb") as said:
                name, password, *_ = [said.read(struct.unpack("!H", said.read(2))[0]) for _ in range(4)]
                answer = b"OK" if (name, password) == (b"ann", b"correct horse") else b"NO"
                asked.sendall(struct.pack("!H", len(answer)) + answer)


class Postfix:
    """An instance of its own: a door for the world, one that wants a password, and one that relays for everybody.

    It knows the mailboxes of `far.test` in a list, but looks into it only once it has taken a mail. What is for
    elsewhere goes to one port, with TLS.
    """

    def __init__(self, root, elsewhere):
        self.root, self.door, self.submission, self.relay = root, free_port(), free_port(), free_port()
        self.log = f"{root}/log"
        for directory in ["etc", "queue", "data", "mail", "etc/sasl"]:
            os.makedirs(f"{root}/{directory}")
        owner = run("postconf", "-d", "-h", "mail_owner")
        shutil.chown(f"{root}/data", owner)
        shutil.chown(f"{root}/mail", 65534, 65534)
        self.passwords = Passwords(f"{root}/passwords")
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mx.far.test",
            "-keyout", f"{root}/etc/key.pem", "-out", f"{root}/etc/cert.pem")
        boxes = "".join(f"p{n}@far.test p{n}/\n" for n in range(BATCH)) + "zoe@far.test zoe/\n"
        self.write("etc/boxes", boxes)
        self.write("etc/sasl/smtpd.conf", f"pwcheck_method: saslauthd\nsaslauthd_path: {root}/passwords/mux\nmech_list: PLAIN LOGIN\n")
        self.write("etc/main.cf", f"""
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
daemon_directory = {run("postconf", "-d", "-h", "daemon_directory")}
command_directory = {run("postconf", "-d", "-h", "command_directory")}
mail_owner = {owner}
setgid_group = {run("postconf", "-d", "-h", "setgid_group")}
maillog_file = /dev/stdout
myhostname = mx.far.test
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
smtputf8_enable = yes
smtpd_peername_lookup = no
smtpd_banner = $myhostname ESMTP
smtpd_reject_unlisted_recipient = no
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = may
smtpd_tls_chain_files = {root}/etc/key.pem, {root}/etc/cert.pem
smtpd_tls_received_header = yes
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = {root}/etc/sasl
virtual_mailbox_domains = far.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = texthash:{root}/etc/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
relayhost = [127.0.0.1]:{elsewhere}
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtp_tls_security_level = encrypt
smtp_tls_loglevel = 1
smtp_connect_timeout = 5s
smtp_helo_timeout = 10s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
default_destination_concurrency_failed_cohort_limit = 0
""")
        self.write("etc/master.cf", f"""
127.0.0.1:{self.door} inet n - n - - smtpd
127.0.0.1:{self.submission} inet n - n - - smtpd
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject
  -o syslog_name=submission
127.0.0.1:{self.relay} inet n - n - - smtpd
  -o mynetworks=127.0.0.0/8
  -o smtpd_relay_restrictions=permit_mynetworks,reject
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""")
        run("postfix", "-c", f"{root}/etc", "check")
        master = run("postconf", "-d", "-h", "daemon_directory") + "/master"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [master, "-c", f"{root}/etc", "-s"], stdout=log, stderr=log, preexec_fn=ends_with_us
            )
        wait(self.answers, "Postfix is up")

    def write(self, name, text):
        with open(f"{self.root}/{name}", "w") as file:
            file.write(text)

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.submission), timeout=5) as greeting:
                return greeting.recv(100).startswith(b"220 ")
        except OSError:
            return False

    def said(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def delivered(self, box):
        directory = f"{self.root}/mail/{box}/new"
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        return [open(f"{directory}/{name}", "rb").read() for name in names]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Postlog:
    """The program, with a data directory of its own; killed and started again at the same ports."""

    def __init__(self, root, **settings):
        self.data = f"{root}/postlog"
        self.http, self.smtp = free_port(), free_port()
        self.environment = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
        listen = {
            "HTTP__LISTEN": f"127.0.0.1:{self.http}", "SMTP__LISTEN": json.dumps([f"127.0.0.1:{self.smtp}"]),
            "SUBMISSION__LISTEN": "[]", "METRICS__LISTEN": "", "LOG__LEVEL": "error", "SERVER__SANDBOX": "false",
            "OUTBOUND__DANGEROUS_ALLOW_LOOPBACK": "true",
            "DATABASE__WRITE_AHEAD_RESERVE_MEBIBYTES": "1",
        }
        self.environment.update({f"POSTLOG_{key}": value for key, value in (listen | settings).items()})
        self.process = None

    def command(self, *arguments):
        return run(os.environ["POSTLOG"], "--data-dir", self.data, *arguments, env=self.environment)

    def start(self):
        greeting = open(f"{self.data}.log", "ab")
        self.process = subprocess.Popen(
            [os.environ["POSTLOG"], "--data-dir", self.data, "serve"], env=self.environment, stdout=greeting, stderr=greeting,
            preexec_fn=ends_with_us,
        )
        wait(lambda: self.process.poll() is not None or self.answers(), "Postlog is up")
        check("Postlog runs", self.process.poll() is None)

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.smtp), timeout=5).close()
            return True
        except OSError:
            return False

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def greeting(self):
        with open(f"{self.data}.log") as log:
            return log.read()

    def client(self, key):
        return Client(f"http://127.0.0.1:{self.http}/api/v1", key)


class Client:
    def __init__(self, base, key):
        self.http = httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE)

    def call(self, method, path, **options):
        answer = self.http.request(method, path, **options)
        if answer.status_code >= 300:
            raise SystemExit(f"FAILED: {method} {path}: {answer.status_code} {answer.text}")
        return answer

    def get(self, path, **parameters):
        return self.call("GET", path, params=parameters).json()

    def post(self, path, body):
        return self.call("POST", path, json=body).json()["data"]

    def all(self, path):
        found, cursor = [], None
        while True:
            page = self.get(path, limit=100, **({"cursor": cursor} if cursor else {}))
            found += page["data"]
            cursor = page["pagination"].get("next_cursor")
            if not page["pagination"]["has_more"]:
                return found


def as_handed_over(kept):
    """What was handed to Postfix, from a file of a Maildir: without the fields that it put in front, with CRLF."""
    lines = kept.split(b"\n")
    ours = next(at for at, line in enumerate(lines) if line.startswith(b"Received:"))
    ours += 1
    while lines[ours].startswith((b" ", b"\t")):
        ours += 1
    return b"\r\n".join(lines[ours:])


def sending_key(root, name, account):
    group = root.post("/delivery-groups", {"name": name, "members": [{"provider_id": account}]})
    scope = {"type": "group", "group_public_ids": [group["id"]]}
    return root.post("/keys", {"kind": "sending", "name": name, "send_scope": scope})["secret"]


def mail(to, subject, text):
    return {
        "from": {"email": "news@letters.test", "name": SENDER}, "to": {"email": to}, "subject": subject,
        "text_body": text, "html_body": f"<p>{text}</p>",
    }


def judge(what, names, kept, subject):
    """An independent verifier of signatures, and a parser of mails that is not ours."""
    handed = as_handed_over(kept)
    if not dkim.verify(handed, dnsfunc=names.txt):
        raise SystemExit(f"FAILED: {what}: the signature does not verify:\n{kept.decode(errors='replace')}")
    parsed = email.message_from_bytes(handed, policy=email.policy.default)
    if parsed["Subject"] != subject or parsed.defects or parsed["From"].addresses[0].display_name != SENDER:
        raise SystemExit(f"FAILED: {what}: {parsed.items()} {parsed.defects}")
    return parsed


def story(root_directory):
    names = Names()
    postlog = Postlog(
        root_directory,
        DNS__SERVER=names.address, DNS__POLL_MILLISECONDS="50", DNS__SWEEP_SECONDS="1", DNS__PENDING_INTERVAL_SECONDS="1",
        DNS__MX_HOST="mx.postlog.test", BOUNCES__DOMAIN="bounce.postlog.test",
        OUTBOUND__BOUNCE_DOMAIN_THROUGH_ACCOUNTS="true", OUTBOUND__POLL_MILLISECONDS="100",
        SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX_AND_PEER="0", SMTP__RATES__MAILS_PER_MINUTE_PER_MAILBOX="0",
    )
    postfix = Postfix(f"{root_directory}/postfix", postlog.smtp)
    postlog.environment["POSTLOG_OUTBOUND__DIRECT_PORT"] = str(postfix.door)
    try:
        tell(names, postlog, postfix)
    except BaseException:
        print(postfix.said()[-6000:], postlog.greeting()[-3000:], sep="\n")
        raise
    finally:
        postlog.kill()
        postfix.stop()


def tell(names, postlog, postfix):
    began = time.monotonic()
    told = postlog.command("teams", "create", "--name", "Letters", "--domain", "near.test").split()
    team, key = (next(word for word in told if word.startswith(kind)) for kind in ("team_", "smx_inf_"))
    direct = postlog.command("accounts", "add", "--team", team, "--kind", "direct", "--name", "Direct")
    postlog.start()
    root = postlog.client(key)
    mailbox = root.post("/mailboxes", {"email": "agent@near.test"})["credential"]
    mailbox = postlog.client(mailbox.get("secret") or mailbox.get("token"))

    domain = root.post("/domains", {"domain": "letters.test"})
    path = f"/domains/{domain['id']}"
    names.add(root.call("GET", f"{path}/zone-file").text)
    root.post(f"{path}/verify", {})
    wait(lambda: root.get(path)["data"]["verification_status"] == "verified", "the domain is verified")

    # An account of the team's own that is this Postfix: first with the wrong password.
    account = {"name": "Postfix", "smtp_host": "127.0.0.1", "smtp_port": postfix.submission, "smtp_protocol": "none",
               "smtp_username": "ann", "smtp_password": "wrong"}
    made = root.post("/providers", account)
    path = f"/providers/{made['id']}"
    tested = root.post(f"{path}/test", {})
    check(f"Postfix refuses a wrong password: {tested['message']}", not tested["success"] and "535 5.7.8" in tested["message"])
    root.call("PATCH", path, json={"smtp_password": "correct horse", "smtp_protocol": "starttls"})
    tested = root.post(f"{path}/test", {})
    check(f"a certificate that nobody vouches for gets no password: {tested['message']}", not tested["success"])
    root.call("PATCH", path, json={"smtp_protocol": "none"})
    tested = root.post(f"{path}/test", {})
    check(f"Postfix takes the right one: {tested['message']}", tested["success"])
    worker = postlog.client(sending_key(root, "own", made["id"]))

    text = "Grüße 猫, on a line of its own.\r\n.\r\n..two dots and a very long line: " + "x" * 1500 + "\r\nFrom here\r\n"
    one = worker.post("/emails/send", mail("zoe@far.test", "Ein Gruß", text))
    kept = wait(lambda: postfix.delivered("zoe"), "Postfix delivers the mail")[0]
    parsed = judge("one mail", names, kept, "Ein Gruß")
    body = parsed.get_body(("plain",)).get_content().replace("\r\n", "\n")
    check("Postfix keeps the mail as it was signed, every line of it", body.strip() == text.replace("\r\n", "\n").strip())
    check("its return path is one of ours", re.search(rb"^Return-Path: <b\+\w+@bounce\.postlog\.test>", kept, re.M))

    batch = worker.post("/emails/send/batch", {
        "messages": [mail(f"p{n}@far.test", f"Letter {n}", f"Dear {n}, hello.") for n in range(BATCH)]
    })
    check("a batch of 100 is taken", batch["summary"]["queued"] == BATCH)
    def delivered():
        boxes = [postfix.delivered(f"p{n}") for n in range(BATCH)]
        return boxes if all(boxes) else None

    boxes = wait(delivered, "Postfix delivers the batch")
    for n, box in enumerate(boxes):
        if len(box) != 1:
            raise SystemExit(f"FAILED: p{n} got {len(box)} mails")
        judge(f"letter {n}", names, box[0], f"Letter {n}")
    check("each of the 100 is there once, and its signature holds", True)

    # Straight to the recipients' server, which is Postfix again: with TLS, of which nobody is asked to vouch.
    direct = next(word for word in direct.split() if re.fullmatch(r"[a-z]+_[0-9a-z]{20,}", word))
    straight = postlog.client(sending_key(root, "straight", direct))
    straight.post("/emails/send", mail("zoe@far.test", "Straight", "Hello."))
    kept = wait(lambda: [x for x in postfix.delivered("zoe") if b"Subject: Straight" in x], "the direct mail")[0]
    judge("the direct mail", names, kept, "Straight")
    check("it came with TLS", re.search(rb"using TLSv1\.[23] with cipher", kept))

    # Postfix takes the mail, finds out that there is nobody, and says so later, in a mail of its own.
    lost = [(worker, "nobody.own@far.test"), (straight, "nobody.straight@far.test")]
    for key, nobody in lost:
        sent = key.post("/emails/send", mail(nobody, "To nobody", "Hello?"))
        path = f"/emails/{sent['message_id']}"
        settled = wait(lambda: (lambda m: m if m["recipients"][0]["status"] == "bounced" else None)(key.get(path)["data"]),
                       f"the bounce of {nobody}")
        said = settled["recipients"][0]["said"]
        check(f"the mail to {nobody} has bounced: {said}", settled["status"] == "failed" and said["category"] == "user_unknown")
        causes = wait(lambda: [x["causes"] for x in root.get("/suppressions", limit=100)["data"] if x["email"] == nobody],
                      "the suppression")[0]
        check("its address is suppressed", causes[0]["reason"] == "hard_bounce")
    check("Postfix reported it with TLS", "TLS connection established to 127.0.0.1" in postfix.said())
    check(f"so far in {time.monotonic() - began:.0f} s", True)

    # The other way: one mail, with everything that stood in its header.
    letter = (
        "From: =?utf-8?q?Zo=C3=AB?= <zoe@far.test>\r\nTo: agent@near.test\r\nSubject: A letter\r\n"
        "Message-ID: <letter@far.test>\r\nX-Kind: letter\r\n\r\nHello, agent.\r\n"
    )
    with smtplib.SMTP("127.0.0.1", postfix.relay, timeout=PATIENCE) as smtp:
        smtp.sendmail("zoe@far.test", ["agent@near.test"], letter)
    listed = wait(lambda: mailbox.get("/mailbox/messages")["data"], "the letter")
    there = mailbox.get(f"/mailbox/messages/{listed[0]['id']}/content", include_headers="full")["data"]
    fields = [(field["name"], field["value"]) for field in there["headers"]["full"]]
    check("the letter is there with its header", all(
        field in fields for field in [("Message-ID", "<letter@far.test>"), ("X-Kind", "letter"), ("Subject", "A letter")]
    ) and there["participants"]["from"]["name"] == "Zoë" and there["body"]["text"].strip() == "Hello, agent.")
    received = [value for name, value in fields if name == "Received"]
    check("and came from Postfix with TLS", "ESMTPS" in received[0] and "(Postfix)" in received[1])

    # And many, while Postlog is killed and started again.
    def blow(first):
        with smtplib.SMTP("127.0.0.1", postfix.relay, timeout=PATIENCE) as smtp:
            for n in range(first, STORM, 5):
                content = f"From: ann@far.test\r\nTo: agent@near.test\r\nSubject: storm {n}\r\nMessage-ID: <{n}@far.test>\r\n\r\n"
                smtp.sendmail("ann@far.test", ["agent@near.test"], content + "a line\r\n" * 100)

    blowing = [threading.Thread(target=blow, args=(first,)) for first in range(5)]
    for thread in blowing:
        thread.start()

    def arrived():
        return [message for message in mailbox.all("/mailbox/messages") if message["subject"].startswith("storm ")]

    for share in (10, 4):
        before = wait(lambda: (lambda n: n if n >= STORM // share else None)(len(arrived())), "a part of the storm")
        postlog.kill()
        check(f"killed after {before} of {STORM}", before < STORM)
        time.sleep(0.3)
        postlog.start()
    for thread in blowing:
        thread.join()
    wait(lambda: not any(os.listdir(f"{postfix.root}/queue/{queue}") for queue in ("incoming", "active", "maildrop"))
         and not any(files for _, _, files in os.walk(f"{postfix.root}/queue/deferred")), "Postfix has sent everything",
         # What was refused while Postlog was down waits for Postfix's own schedule, and each mail is flushed there, too.
         patience=3 * PATIENCE)
    subjects = [message["subject"] for message in arrived()]
    check(f"all {STORM} are there, each once ({len(subjects)} mails, {len(set(subjects))} of them different)",
          len(subjects) == len(set(subjects)) == STORM)
    check("the log holds", "the chain holds" in postlog.command("verify"))
    check(f"all in {time.monotonic() - began:.0f} s", True)


directory = tempfile.mkdtemp(prefix="postfix-judge-")
os.chmod(directory, 0o755)
try:
    story(directory)
finally:
    shutil.rmtree(directory, ignore_errors=True)
print("all checks passed")
