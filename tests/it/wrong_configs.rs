//! A configuration that cannot be meant is refused before anything opens, with the name of the key.

use crate::harness::Installation;

/// A wrong configuration file, and the key that has to be named.
const WRONG: &[(&str, &str)] = &[
    // Misspelt, misplaced and made-up names.
    ("[server]\ngrace_second = 3", "server.grace_second"),
    ("[serverr]\nsandbox = true", "serverr"),
    ("sandbox = true", "sandbox"),
    ("[http]\nport = 80", "http.port"),
    ("[http.rate_limits]\nper_minute = 1", "http.rate_limits.per_minute"),
    ("[smtp.limits]\nmessage_bytes_max = 1", "smtp.limits.message_bytes_max"),
    ("[webhooks.targets]\nallow_http = true", "webhooks.targets.allow_http"),
    ("[outbound.retry]\nwait = [1]", "outbound.retry.wait"),
    ("[limits]\nkeys = 1", "limits.keys"),
    ("[dns]\nservers = []", "dns.servers"),
    // Values of other types.
    ("[server]\nsandbox = \"yes\"", "server.sandbox"),
    ("[server]\nroles = \"http\"", "server.roles"),
    ("[server]\ngrace_seconds = \"25\"", "server.grace_seconds"),
    ("[server]\ngrace_seconds = 2.5", "server.grace_seconds"),
    ("[http]\nlisten = 8080", "http.listen"),
    ("[database]\nurl = []", "database.url"),
    ("[smtp]\nverify_senders = 1", "smtp.verify_senders"),
    ("server = 1", "server"),
    ("[prices]\ninbound_message_nanos = 0.15", "prices.inbound_message_nanos"),
    // Values that cannot be.
    ("[server]\nroles = []", "server.roles"),
    ("[server]\nroles = [\"web\"]", "server.roles"),
    ("[server]\ngrace_seconds = 0", "server.grace_seconds"),
    ("[server]\ngrace_seconds = 301", "server.grace_seconds"),
    ("[server]\ngrace_seconds = -1", "server.grace_seconds"),
    ("[server]\npoll_idle_milliseconds = 1", "server.poll_"),
    ("[database]\nurl = \"mysql://x\"", "database.url"),
    ("[database]\nlanes = 0", "database.lanes"),
    ("[database]\nlanes = 65", "database.lanes"),
    ("[database]\nqueue_max = 1", "database.queue_max"),
    ("[blobs]\nlocation = \"s3://\"", "blobs.location"),
    ("[blobs]\nlocation = \"gs://bucket\"", "blobs.location"),
    ("[secrets]\nmaster_key_file = \"/nowhere/master.key\"", "secrets.master_key_file"),
    ("[secrets]\npepper_file = \"/nowhere/pepper.key\"", "secrets.pepper_file"),
    ("[secrets]\ncheckpoint_key_file = \"/nowhere/checkpoint.key\"", "secrets.checkpoint_key_file"),
    ("[secrets]\nprevious_master_key_files = [\"/nowhere/old.key\"]", "secrets.previous_master_key_files"),
    ("[http]\npublic_url = \"ftp://example.com\"", "http.public_url"),
    ("[http]\npublic_url = \"https://example.com/path\"", "http.public_url"),
    ("[http]\nbody_bytes_max = 0", "http.body_bytes_max"),
    ("[http]\njson_depth_max = 0", "http.json_depth_max"),
    ("[http]\nrequest_seconds_max = 0", "http.request_seconds_max"),
    ("[http]\ntrusted_proxies = [\"localhost\"]", "http"),
    ("[http.rate_limits]\nwindow_seconds = 0", "http.rate_limits.window_seconds"),
    ("[http.mail_server]\nhost = \"a b\"", "http.mail_server.host"),
    ("[http.mail_server]\nimap_port = 70000", "http"),
    ("[connections]\nconnections_max = 0", "connections.connections_max"),
    ("[connections]\nbuffer_bytes_max = 1", "connections.buffer_bytes_max"),
    ("[streams]\nstreams_max = 0", "streams.streams_max"),
    ("[streams]\nretry_milliseconds = 0", "streams.retry_milliseconds"),
    ("[smtp]\nhostname = \"not a name\"", "smtp.hostname"),
    ("[smtp]\npostmaster_mailbox = \"nobody\"", "smtp.postmaster_mailbox"),
    ("[smtp]\ndmarc_reject_domains = [\"a.test\"]", "smtp.dmarc_reject_domains"),
    ("[smtp]\nspam_threshold_tenths = 0", "smtp.spam_threshold_tenths"),
    ("[smtp]\nproxy_peers = [\"10.0.0.0/33\"]", "smtp.proxy_peers"),
    ("[smtp]\ndrain_seconds = 0", "smtp.drain_seconds"),
    ("[smtp.tls]\ncertificate_file = \"x.pem\"", "smtp.tls.certificate_file"),
    ("[smtp.tls]\noff = true\nrequired = true", "smtp.tls.off"),
    ("[smtp.limits]\nmessage_octets_max = 0", "smtp.limits.message_octets_max"),
    ("[smtp.limits]\nrecipients_max = 1", "smtp.limits.recipients_max"),
    ("[smtp.greylist]\nwindow_seconds = 1", "smtp.greylist.window_seconds"),
    ("[submission]\ndrain_seconds = 0", "submission.drain_seconds"),
    ("[submission.guessing]\nwrong_keys_max = 0", "submission.guessing.wrong_keys_max"),
    ("[bounces]\ndomain = \"not a name\"", "bounces.domain"),
    ("[webhooks]\nlease_seconds = 1", "webhooks.lease_seconds"),
    ("[webhooks.schedule]\nattempt_offsets_seconds = []", "webhooks.schedule"),
    ("[webhooks.targets]\nrefused_networks = [\"10.0.0.1/8\"]", "webhooks.targets.refused_networks"),
    ("[outbound]\nhostname = \"a b\"", "outbound.hostname"),
    ("[outbound]\nses_endpoint = \"nowhere\"", "outbound.ses_endpoint"),
    ("[outbound.retry]\nwait_seconds = []", "outbound.retry"),
    ("[dns]\nserver = \"8.8.8.8\"", "dns.server"),
    ("[dns]\nmx_host = \"a b\"", "dns.mx_host"),
    ("[dns]\nspf_mechanism = \"a mx -all\"", "dns.spf_mechanism"),
    ("[metrics]\nlisten = \"9464\"", "metrics.listen"),
    ("[log]\nlevel = \"loud=very\"", "log.level"),
    ("[log]\nformat = \"xml\"", "log.format"),
    ("[prices]\ninbound_message_nanos = -1", "prices"),
    ("[billing]\nnew_team_credit_limit_nanos = -1", "billing.new_team_credit_limit_nanos"),
];

#[test]
fn sixty_wrong_configurations_are_each_refused_with_the_name_of_the_key() {
    assert!(WRONG.len() >= 60);
    let installation = Installation::new();
    let file = installation.data().with_extension("toml");
    let mut missed = vec![];
    for (text, key) in WRONG {
        std::fs::write(&file, text).unwrap();
        let arguments = ["--config", file.to_str().unwrap(), "config", "check"];
        let mut command = installation.command(&arguments);
        // The environment would win over the file.
        let output = command.env_remove("POSTLOG_METRICS__LISTEN").env_remove("POSTLOG_LOG__LEVEL").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !said.contains(key) {
            missed.push(format!("{text:?} (expected {key}): {} {said}", output.status));
        }
    }
    assert!(missed.is_empty(), "{} of {}:\n{}", missed.len(), WRONG.len(), missed.join("\n"));
    assert!(!installation.data().exists(), "nothing was made for any of them");
}

#[test]
fn a_server_with_a_wrong_configuration_does_not_start() {
    let installation = Installation::new();
    let file = installation.data().with_extension("toml");
    std::fs::write(&file, "[server]\ngrace_second = 3\n[smtp]\nhostname = \"not a name\"").unwrap();
    let output = installation.command(&["--config", file.to_str().unwrap(), "serve"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("server.grace_second"), "{said}");
    assert!(!installation.data().exists(), "it left {} behind", installation.data().display());
}
