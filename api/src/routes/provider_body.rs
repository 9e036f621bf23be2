//! Sending accounts as they are described in requests and answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use domain::egress::{Policy, judge};
use domain::provider::quota::Range;
use domain::provider::{Identity, Provider, Quotas, Security, Status, Transport, Trouble, is_topic};
use domain::published::rfc3339;
use mail::address::{Address, normalise_domain};
use projections::providers::{Health, Row};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::field::{present, text, text_or_null};
use crate::problem::Problem;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    /// TLS from the first byte.
    #[serde(alias = "ssl")]
    Tls,
    Starttls,
    None,
}

impl From<Protocol> for Security {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tls => Self::Tls,
            Protocol::Starttls => Self::Starttls,
            Protocol::None => Self::None,
        }
    }
}

/// A quota: a number, or a range from which one is drawn for each window.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum QuotaValue {
    /// Always this many.
    Fixed(u32),
    /// Between two numbers.
    Between {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
}

/// How many recipients an account may be given; null lifts a quota.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotasBody {
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>)]
    per_second: Option<Option<QuotaValue>>,
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>)]
    per_minute: Option<Option<QuotaValue>>,
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>)]
    per_hour: Option<Option<QuotaValue>>,
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>)]
    per_day: Option<Option<QuotaValue>>,
}

fn or_null<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

impl QuotasBody {
    pub(super) fn read(self, now: Quotas) -> Result<Quotas, Problem> {
        let one = |field: &str, given: Option<Option<QuotaValue>>, now: Option<Range>| {
            let range = match given {
                None => return Ok(now),
                Some(None) => return Ok(None),
                Some(Some(QuotaValue::Fixed(n))) => Range::exactly(n),
                Some(Some(QuotaValue::Between { min, max })) => Range { min, max },
            };
            if range.min == 0 || range.min > range.max {
                let message = "a quota is at least 1, and its min at most its max";
                return Err(Problem::unacceptable(format!("quotas.{field}"), "invalid_value", message));
            }
            Ok(Some(range))
        };
        Ok(Quotas {
            per_second: one("per_second", self.per_second, now.per_second)?,
            per_minute: one("per_minute", self.per_minute, now.per_minute)?,
            per_hour: one("per_hour", self.per_hour, now.per_hour)?,
            per_day: one("per_day", self.per_day, now.per_day)?,
        })
    }
}

/// What a sending account is to be; in a change, what is absent stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderBody {
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, min_length = 1, max_length = 255)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false, example = "smtp.example.com")]
    pub(super) smtp_host: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, minimum = 1)]
    pub(super) smtp_port: Option<u16>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) smtp_protocol: Option<Protocol>,
    /// Without it, and without a password, nobody logs in.
    #[serde(default, deserialize_with = "text::<1, 255, _>")]
    #[schema(nullable = false)]
    pub(super) smtp_username: Option<String>,
    /// Kept sealed; never shown.
    #[serde(default, deserialize_with = "text::<1, 500, _>")]
    #[schema(nullable = false)]
    pub(super) smtp_password: Option<String>,
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>)]
    from_email: Option<Option<String>>,
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>)]
    from_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>)]
    reply_to_email: Option<Option<String>>,
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>)]
    reply_to_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "text_or_null::<0, 255, _>")]
    #[schema(value_type = Option<String>)]
    tracking_domain: Option<Option<String>>,
    /// Its share among the eligible accounts.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, maximum = 100)]
    pub(super) percentage: Option<u8>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) quotas: Option<QuotasBody>,
    /// Values for templates: at most 50 snake_case names.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    variables: Option<BTreeMap<String, String>>,
    /// `smtp` by default; never changes.
    #[serde(rename = "type", default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub(super) kind: Option<ProviderType>,
    /// The region of an Amazon SES account.
    #[serde(default, deserialize_with = "text::<1, 32, _>")]
    #[schema(nullable = false, example = "eu-central-1")]
    pub(super) ses_region: Option<String>,
    /// The configuration set whose notifications come back.
    #[serde(default, deserialize_with = "text_or_null::<0, 64, _>")]
    #[schema(value_type = Option<String>)]
    pub(super) ses_configuration_set: Option<Option<String>>,
    /// The topic of Amazon SNS that the account's notifications come from; null lets go of it. Not at creation: the first
    /// topic whose subscription is confirmed at `ses_notifications_url` is taken.
    #[serde(default, deserialize_with = "text_or_null::<0, 400, _>")]
    #[schema(value_type = Option<String>, example = "arn:aws:sns:eu-central-1:123456789012:mail")]
    ses_topic_arn: Option<Option<String>>,
    /// The id of the access key of an Amazon SES account.
    #[serde(default, deserialize_with = "text::<1, 128, _>")]
    #[schema(nullable = false)]
    pub(super) ses_access_key_id: Option<String>,
    /// Its secret. Kept sealed; never shown.
    #[serde(default, deserialize_with = "text::<1, 500, _>")]
    #[schema(nullable = false)]
    pub(super) ses_secret_access_key: Option<String>,
}

/// Types of accounts that a team makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProviderType {
    /// A submission server.
    #[default]
    Smtp,
    /// Amazon SES, API version 2.
    AmazonSes,
    /// The recipients' own servers, from this installation's address; where its operator allows it.
    DirectMx,
}

/// What the credentials of a type are called in requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoginFields {
    pub(super) username: &'static str,
    pub(super) password: &'static str,
}

impl ProviderType {
    pub(super) fn of(transport: &Transport) -> Self {
        if matches!(transport, Transport::Ses { .. }) { Self::AmazonSes } else { Self::Smtp }
    }

    pub(super) fn login_fields(self) -> LoginFields {
        match self {
            Self::Smtp | Self::DirectMx => LoginFields { username: "smtp_username", password: "smtp_password" },
            Self::AmazonSes => LoginFields { username: "ses_access_key_id", password: "ses_secret_access_key" },
        }
    }
}

impl ProviderBody {
    /// Refuses fields of another type.
    pub(super) fn fits(&self, kind: ProviderType) -> Result<(), Problem> {
        let smtp = [
            ("smtp_host", self.smtp_host.is_some()),
            ("smtp_port", self.smtp_port.is_some()),
            ("smtp_protocol", self.smtp_protocol.is_some()),
            ("smtp_username", self.smtp_username.is_some()),
            ("smtp_password", self.smtp_password.is_some()),
        ];
        let ses = [
            ("ses_region", self.ses_region.is_some()),
            ("ses_configuration_set", self.ses_configuration_set.is_some()),
            ("ses_access_key_id", self.ses_access_key_id.is_some()),
            ("ses_secret_access_key", self.ses_secret_access_key.is_some()),
            ("ses_topic_arn", self.ses_topic_arn.is_some()),
        ];
        let foreign: Vec<(&str, bool)> = match kind {
            ProviderType::Smtp => ses.to_vec(),
            ProviderType::AmazonSes => smtp.to_vec(),
            ProviderType::DirectMx => smtp.into_iter().chain(ses).collect(),
        };
        match foreign.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => {
                Err(Problem::unacceptable(field, "not_applicable", "the account's type does not have this field"))
            }
            None => Ok(()),
        }
    }

    /// Returns the login that is given here.
    pub(super) fn login(&self) -> Option<&String> {
        self.smtp_username.as_ref().or(self.ses_access_key_id.as_ref())
    }

    /// Returns the password that is given here.
    pub(super) fn password(&self) -> Option<&String> {
        self.smtp_password.as_ref().or(self.ses_secret_access_key.as_ref())
    }

    /// Returns the place of an Amazon SES account with what is given here.
    pub(super) fn ses(&self, region: Option<&str>, configuration_set: Option<&str>) -> Result<Transport, Problem> {
        let plain = |text: &str, more: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
        let region = self.ses_region.as_deref().or(region);
        let region = region.ok_or_else(|| Problem::invalid("ses_region", "required", "ses_region is required"))?;
        // It becomes a part of a host name.
        let is_label = plain(region, b"-") && region.bytes().all(|b| !b.is_ascii_uppercase());
        if !is_label || region.starts_with('-') || region.ends_with('-') {
            return Err(Problem::unacceptable("ses_region", "invalid_value", "it is not the name of a region"));
        }
        let set = match &self.ses_configuration_set {
            None => configuration_set.map(str::to_owned),
            Some(given) => given.clone().filter(|text| !text.is_empty()),
        };
        if set.as_deref().is_some_and(|set| !plain(set, b"-_")) {
            let message = "it has letters, digits, hyphens and underscores only";
            return Err(Problem::unacceptable("ses_configuration_set", "invalid_value", message));
        }
        Ok(Transport::Ses { region: region.to_owned(), configuration_set: set })
    }

    /// Returns the topic that is given here, or that there is to be none.
    pub(super) fn topic(&self) -> Result<Option<Option<String>>, Problem> {
        let topic = self.ses_topic_arn.clone().map(|given| given.filter(|text| !text.is_empty()));
        if topic.iter().flatten().any(|text| !is_topic(text)) {
            let message = "it is not the name (ARN) of a topic of Amazon SNS";
            return Err(Problem::unacceptable("ses_topic_arn", "invalid_value", message));
        }
        Ok(topic)
    }

    /// Returns an identity with what is given here.
    pub(super) fn identity(&self, now: Identity) -> Result<Identity, Problem> {
        let kept = |given: &Option<Option<String>>, now: Option<String>| match given {
            None => now,
            Some(given) => given.clone().filter(|text| !text.is_empty()),
        };
        let identity = Identity {
            name: self.name.clone().unwrap_or(now.name),
            username: self.login().cloned().or(now.username),
            from_email: kept(&self.from_email, now.from_email),
            from_name: kept(&self.from_name, now.from_name),
            reply_to_email: kept(&self.reply_to_email, now.reply_to_email),
            reply_to_name: kept(&self.reply_to_name, now.reply_to_name),
            tracking_domain: kept(&self.tracking_domain, now.tracking_domain),
            variables: self.variables.clone().unwrap_or(now.variables),
        };
        for (field, address) in [("from_email", &identity.from_email), ("reply_to_email", &identity.reply_to_email)] {
            if let Some(Err(error)) = address.as_deref().map(Address::parse) {
                return Err(Problem::unacceptable(field, "invalid_address", error.to_string()));
            }
        }
        if identity.tracking_domain.as_deref().is_some_and(|domain| normalise_domain(domain).is_err()) {
            return Err(Problem::unacceptable("tracking_domain", "invalid_domain", "it is not a host name"));
        }
        variables(&identity.variables)?;
        Ok(identity)
    }

    /// Returns the percentage that is given here.
    pub(super) fn share(&self, now: Option<u8>) -> Result<Option<u8>, Problem> {
        match self.percentage {
            Some(n) if n > 100 => Err(Problem::invalid("percentage", "invalid_value", "percentage must be 0 to 100")),
            given => Ok(given.or(now)),
        }
    }
}

fn variables(variables: &BTreeMap<String, String>) -> Result<(), Problem> {
    let snake = |name: &str| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if variables.len() > 50 || !variables.iter().all(|(name, value)| snake(name) && value.chars().count() <= 4_096) {
        let message = "at most 50 snake_case names of at most 64 characters, with values of at most 4096";
        return Err(Problem::unacceptable("variables", "invalid_value", message));
    }
    Ok(())
}

/// Checks that a server may be connected to; a name is looked up, and what it leads to judged, at each connection.
pub(super) fn host(given: &str, policy: &Policy) -> Result<String, Problem> {
    let refused = |message: &str| Problem::unacceptable("smtp_host", "host_not_allowed", message);
    let loopback = policy.dangerous_allow_http_loopback;
    if let Ok(ip) = given.trim_matches(['[', ']']).parse::<IpAddr>() {
        if !(loopback && ip.is_loopback()) && judge(ip, policy).is_err() {
            return Err(refused("the host is an address that is not public"));
        }
        return Ok(ip.to_string());
    }
    let name = normalise_domain(given).map_err(|_| refused("smtp_host is not a host name"))?;
    let is_loopback = name == "localhost" || name.ends_with(".localhost");
    let local = is_loopback || !name.contains('.') || name.ends_with(".local") || name.ends_with(".internal");
    if local && !(is_loopback && loopback) && policy.dangerous_allow_networks.is_empty() {
        return Err(refused("smtp_host must name a public host"));
    }
    Ok(name)
}

/// A quota as it is shown.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = ProviderQuotaRange)]
struct QuotaRange {
    min: u32,
    max: u32,
}

/// Quotas as they are shown.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct ProviderQuotas {
    #[schema(required)]
    per_second: Option<QuotaRange>,
    #[schema(required)]
    per_minute: Option<QuotaRange>,
    #[schema(required)]
    per_hour: Option<QuotaRange>,
    #[schema(required)]
    per_day: Option<QuotaRange>,
}

/// What can be done with an account.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct ProviderAllowedActions {
    activate: bool,
    deactivate: bool,
    delete: bool,
    test: bool,
    update: bool,
    update_variables: bool,
}

/// A sending account as it is listed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ProviderListItem {
    #[schema(example = "dprov_06bqmn3t0d4gq2v8xk1hz7sw")]
    id: String,
    name: String,
    /// `smtp` or `amazon_ses`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// How mail leaves: `custom_smtp`, `ses`, `direct_mx` or `sandbox`.
    transport: &'static str,
    /// `active`, `inactive` or `error`.
    status: &'static str,
    #[schema(required)]
    status_reason: Option<String>,
    is_active: bool,
    is_shared: bool,
    is_editable: bool,
    allowed_actions: ProviderAllowedActions,
    #[schema(required)]
    smtp_host: Option<String>,
    #[schema(required)]
    smtp_port: Option<u16>,
    #[schema(required)]
    smtp_protocol: Option<&'static str>,
    #[schema(required)]
    smtp_username: Option<String>,
    has_smtp_password: bool,
    /// The region of an Amazon SES account.
    #[schema(required)]
    ses_region: Option<String>,
    #[schema(required)]
    ses_configuration_set: Option<String>,
    #[schema(required)]
    ses_access_key_id: Option<String>,
    /// Where a topic of Amazon SNS is to be subscribed, so that what becomes of the account's mail is known.
    #[schema(required, example = "https://mail.example.com/api/v1/provider-notifications/drzgk3lkofz3m2lq")]
    ses_notifications_url: Option<String>,
    /// The topic that notifications are taken from.
    #[schema(required)]
    ses_topic_arn: Option<String>,
    #[schema(required)]
    from_email: Option<String>,
    #[schema(required)]
    from_name: Option<String>,
    #[schema(required)]
    reply_to_email: Option<String>,
    #[schema(required)]
    reply_to_name: Option<String>,
    #[schema(required)]
    oauth_email: Option<String>,
    has_refresh_token: bool,
    quotas: ProviderQuotas,
    #[schema(required)]
    percentage: Option<u8>,
    #[schema(required)]
    tracking_domain: Option<String>,
    created_at: String,
    updated_at: String,
    #[schema(required)]
    last_tested_at: Option<String>,
    #[schema(required)]
    last_used_at: Option<String>,
}

/// A sending account.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ProviderItem {
    #[serde(flatten)]
    item: ProviderListItem,
    variables: BTreeMap<String, String>,
}

/// What is known of an account beside its fold.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
    pub(super) last_used_at: Option<i64>,
    pub(super) said: Option<String>,
    /// Where its notifications are taken.
    pub(super) url: Option<String>,
}

impl Beside {
    pub(super) fn of(row: &Row) -> Self {
        Self {
            created_at: row.created_at,
            updated_at: row.updated_at,
            last_used_at: row.last_used_at,
            said: row.said.clone(),
            url: None,
        }
    }

    /// Returns the same with where the account's notifications are taken.
    pub(super) fn reached_at(self, url: Option<String>) -> Self {
        Self { url, ..self }
    }
}

impl ProviderListItem {
    pub(super) fn new(id: &str, provider: &Provider, beside: &Beside) -> Self {
        let (identity, settings) = (&provider.identity, provider.settings.as_ref());
        let (smtp_host, smtp_port, smtp_protocol) = match settings.map(|s| &s.transport) {
            Some(Transport::CustomSmtp { host, port, security }) => {
                (Some(host.clone()), Some(*port), Some(protocol(*security)))
            }
            _ => (None, None, None),
        };
        let (ses_region, ses_configuration_set) = match settings.map(|s| &s.transport) {
            Some(Transport::Ses { region, configuration_set }) => (Some(region.clone()), configuration_set.clone()),
            _ => (None, None),
        };
        let is_ses = ses_region.is_some();
        let range = |range: Option<Range>| range.map(|r| QuotaRange { min: r.min, max: r.max });
        let quotas = settings.map(|s| s.quotas).unwrap_or_default();
        let own = !provider.managed;
        let health = Health::of(provider);
        Self {
            id: id.to_owned(),
            name: identity.name.clone(),
            kind: if is_ses { "amazon_ses" } else { "smtp" },
            transport: settings.map_or("custom_smtp", |s| s.transport.kind()),
            status: match health {
                Health::Active => "active",
                Health::Broken => "error",
                Health::Inactive | Health::Deleted => "inactive",
            },
            status_reason: provider.trouble.map(|trouble| reason(trouble, beside.said.as_deref())),
            is_active: provider.status == Status::Active,
            is_shared: provider.managed,
            is_editable: own,
            allowed_actions: ProviderAllowedActions {
                activate: health != Health::Active,
                deactivate: provider.status == Status::Active,
                delete: own,
                test: own && smtp_host.is_some(),
                update: own,
                update_variables: true,
            },
            smtp_host,
            smtp_port,
            smtp_protocol,
            smtp_username: identity.username.clone().filter(|_| !is_ses),
            has_smtp_password: provider.secret.is_some() && !is_ses,
            ses_region,
            ses_configuration_set,
            ses_access_key_id: identity.username.clone().filter(|_| is_ses),
            ses_notifications_url: beside.url.clone().filter(|_| is_ses),
            ses_topic_arn: provider.topic.clone(),
            from_email: identity.from_email.clone(),
            from_name: identity.from_name.clone(),
            reply_to_email: identity.reply_to_email.clone(),
            reply_to_name: identity.reply_to_name.clone(),
            oauth_email: None,
            has_refresh_token: false,
            quotas: ProviderQuotas {
                per_second: range(quotas.per_second),
                per_minute: range(quotas.per_minute),
                per_hour: range(quotas.per_hour),
                per_day: range(quotas.per_day),
            },
            percentage: settings.and_then(|s| s.percentage),
            tracking_domain: identity.tracking_domain.clone(),
            created_at: rfc3339(beside.created_at),
            updated_at: rfc3339(beside.updated_at),
            last_tested_at: provider.last_tested_at.map(rfc3339),
            last_used_at: beside.last_used_at.map(rfc3339),
        }
    }
}

impl ProviderItem {
    pub(super) fn new(id: &str, provider: &Provider, beside: &Beside) -> Self {
        let item = ProviderListItem::new(id, provider, beside);
        Self { item, variables: provider.identity.variables.clone() }
    }
}

fn protocol(security: Security) -> &'static str {
    match security {
        Security::None => "none",
        Security::Starttls => "starttls",
        Security::Tls => "tls",
    }
}

fn reason(trouble: Trouble, said: Option<&str>) -> String {
    let what = match trouble {
        Trouble::LoginRefused => "the server refused the login",
        Trouble::AccountSuspended => "the account is closed or suspended",
        Trouble::Misconfigured => "the account cannot work as it is configured",
    };
    said.map_or_else(|| what.to_owned(), |said| format!("{what}: {said}"))
}
