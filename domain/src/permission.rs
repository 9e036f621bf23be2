//! What a credential may do: the permission catalogue, presets, roles and matching.

use serde::{Deserialize, Serialize};

/// One permission of the catalogue, or a wildcard over an area (`webhook.*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Permission(&'static str);

/// The whole catalogue, wildcards included.
pub const CATALOGUE: &[&str] = &[
    "analytics.read",
    "analytics.*",
    "logs.read",
    "logs.*",
    "billing.read",
    "billing.topup",
    "billing.auto_topup",
    "billing.*",
    "domain.read",
    "domain.create",
    "domain.verify",
    "domain.delete",
    "domain.*",
    "email.send",
    "email.receive",
    "key.read",
    "key.create",
    "key.rotate",
    "key.revoke",
    "key.*",
    "mailbox.read",
    "mailbox.settings.update",
    "mailbox.admin.read",
    "mailbox.admin.create",
    "mailbox.admin.delete",
    "mailbox.admin.manage",
    "mailbox.admin.*",
    "provider.read",
    "provider.create",
    "provider.update",
    "provider.delete",
    "provider.*",
    "routing.read",
    "routing.create",
    "routing.update",
    "routing.delete",
    "routing.*",
    "sending.read",
    "sending.manage",
    "sending.*",
    "suppression.read",
    "suppression.manage",
    "suppression.*",
    "team.read",
    "team.update",
    "team.members.invite",
    "team.members.remove",
    "team.members.roles",
    "team.*",
    "webhook.read",
    "webhook.create",
    "webhook.update",
    "webhook.delete",
    "webhook.manage",
    "webhook.*",
    "audit.read",
    "event.read",
];

/// Other spellings that callers may use for catalogue entries.
const ALIASES: &[(&str, &str)] = &[
    ("providers.manage", "provider.*"),
    ("providers.read", "provider.read"),
    ("domains.manage", "domain.*"),
    ("domains.read", "domain.read"),
    ("keys.manage", "key.*"),
    ("webhooks.manage", "webhook.*"),
    ("webhooks.read", "webhook.read"),
    ("mailboxes.manage", "mailbox.admin.*"),
    ("delivery_group:scope", "routing.read"),
];

/// A text is not a permission of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown permission {0:?}")]
pub struct UnknownPermission(pub String);

impl Permission {
    /// Returns the catalogue entry of that name or alias.
    ///
    /// # Errors
    /// The catalogue has no such entry.
    pub fn parse(text: &str) -> Result<Self, UnknownPermission> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == text).map_or(text, |(_, name)| name);
        CATALOGUE
            .iter()
            .find(|entry| **entry == name)
            .map(|entry| Self(entry))
            .ok_or_else(|| UnknownPermission(text.to_owned()))
    }

    /// Returns the name in the catalogue.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.0
    }

    /// Returns whether holding this permission grants `wanted`: equal, or `a.b.*` covering what starts with `a.b.`.
    #[must_use]
    pub fn covers(&self, wanted: &str) -> bool {
        self.0 == wanted || self.0.strip_suffix('*').is_some_and(|area| wanted.starts_with(area))
    }
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&<std::borrow::Cow<'de, str>>::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// What one credential holds, sorted and without repeats.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permissions(Vec<Permission>);

impl Permissions {
    /// Returns the set of the given permissions.
    #[must_use]
    pub fn new(mut list: Vec<Permission>) -> Self {
        list.sort();
        list.dedup();
        Self(list)
    }

    /// Returns the set with the given names.
    ///
    /// # Errors
    /// One of them is not in the catalogue.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownPermission> {
        names.into_iter().map(Permission::parse).collect::<Result<_, _>>().map(Self::new)
    }

    /// Returns whether `wanted` is granted.
    #[must_use]
    pub fn allow(&self, wanted: &str) -> bool {
        self.0.iter().any(|p| p.covers(wanted))
    }

    /// Returns the names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(Permission::as_str)
    }

    /// Returns whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Named sets for infrastructure keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Everything.
    Full,
    /// Every `*.read`.
    ReadOnly,
    /// Webhooks only.
    WebhookAdmin,
    /// Sending accounts, routing, domains and logs.
    ProviderAdmin,
    /// Billing and usage.
    BillingAdmin,
}

impl Preset {
    /// All presets with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("root:full", Self::Full),
        ("root:readonly", Self::ReadOnly),
        ("root:webhook_admin", Self::WebhookAdmin),
        ("root:provider_admin", Self::ProviderAdmin),
        ("root:billing_admin", Self::BillingAdmin),
    ];

    /// Returns the preset of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(n, _)| *n == name).map(|(_, preset)| preset)
    }

    /// Returns what the preset grants.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        let pick = |wanted: &dyn Fn(&str) -> bool| {
            Permissions::new(CATALOGUE.iter().filter(|n| wanted(n)).map(|n| Permission(n)).collect())
        };
        let team_wide =
            |n: &str| !matches!(n, "email.send" | "email.receive" | "mailbox.read" | "mailbox.settings.update");
        match self {
            Self::Full => pick(&|n| n.ends_with(".*") || matches!(n, "audit.read" | "event.read")),
            Self::ReadOnly => pick(&|n| n.ends_with(".read") && team_wide(n)),
            Self::WebhookAdmin => pick(&|n| n == "webhook.*"),
            Self::ProviderAdmin => pick(&|n| {
                matches!(n, "provider.*" | "routing.*" | "domain.*" | "logs.*" | "sending.*" | "suppression.*")
            }),
            Self::BillingAdmin => pick(&|n| matches!(n, "billing.*" | "analytics.read" | "logs.read")),
        }
    }
}

/// What mailbox credentials may hold.
pub const MAILBOX_PERMISSIONS: [&str; 4] = ["email.send", "email.receive", "mailbox.read", "mailbox.settings.update"];

/// What team sending keys may hold.
pub const SENDING_PERMISSIONS: [&str; 1] = ["email.send"];

/// What a person may do in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, deleting the team included; cannot be assigned.
    Owner,
    /// Everything but deleting the team.
    Admin,
    /// Sending, receiving, providers, keys, logs, webhooks.
    Developer,
    /// Dashboard and logs.
    Member,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Developer, Self::Member];

    /// Returns what the role grants.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        let names: &[&str] = match self {
            Self::Owner | Self::Admin => {
                let mut all = Preset::Full.permissions();
                all.0.extend(MAILBOX_PERMISSIONS.iter().filter_map(|n| Permission::parse(n).ok()));
                return Permissions::new(all.0);
            }
            Self::Developer => &[
                "email.send",
                "email.receive",
                "mailbox.read",
                "mailbox.admin.*",
                "provider.*",
                "routing.*",
                "domain.read",
                "key.*",
                "logs.*",
                "analytics.read",
                "webhook.*",
                "event.read",
            ],
            Self::Member => &["logs.read", "analytics.read", "team.read"],
        };
        Permissions::new(names.iter().filter_map(|n| Permission::parse(n).ok()).collect())
    }

    /// Returns whether a holder may assign `other` to somebody.
    #[must_use]
    pub fn may_assign(self, other: Self) -> bool {
        match self {
            Self::Owner => other != Self::Owner,
            Self::Admin => matches!(other, Self::Developer | Self::Member),
            Self::Developer | Self::Member => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_its_area_and_nothing_beside_it() {
        let p = Permission::parse("webhook.*").unwrap();
        assert!(p.covers("webhook.read"));
        assert!(!p.covers("webhooks.read"));
        assert!(!p.covers("mailbox.read"));
    }

    #[test]
    fn every_alias_names_a_catalogue_entry() {
        for (alias, name) in ALIASES {
            assert_eq!(Permission::parse(alias).unwrap().as_str(), *name);
        }
    }

    #[test]
    fn a_full_preset_allows_every_team_permission() {
        let full = Preset::Full.permissions();
        for name in CATALOGUE.iter().filter(|n| !MAILBOX_PERMISSIONS.contains(n)) {
            assert!(full.allow(name), "{name}");
        }
        assert!(!full.allow("email.send"), "a root key does not send");
    }

    #[test]
    fn read_only_never_writes() {
        assert!(Preset::ReadOnly.permissions().names().all(|n| n.ends_with(".read")));
    }

    #[test]
    fn nobody_assigns_the_owner() {
        assert!(Role::ALL.iter().all(|r| !r.may_assign(Role::Owner)));
    }
}
