use super::*;
use crate::team::Limits;
use crate::testing::{NOW, given, provider_id, secret_id, team_created, with_limits};

fn settings() -> Settings {
    let transport = Transport::CustomSmtp { host: "smtp.example.net".into(), port: 587, security: Security::Starttls };
    Settings { transport, percentage: Some(50), quotas: Quotas::default() }
}

fn create(n: u8, managed: bool) -> CreateProvider {
    CreateProvider {
        provider: provider_id(n),
        settings: settings(),
        identity: Identity { name: "Main".into(), username: Some("ann".into()), ..Identity::default() },
        managed,
        secret: Some(secret_id(n)),
    }
}

fn with_account(managed: bool) -> Vec<crate::Event> {
    let mut log = team_created();
    log.extend(given(log.clone()).when(create(1, managed)).then_events());
    log
}

fn change() -> ChangeProvider {
    ChangeProvider {
        provider: provider_id(1),
        settings: None,
        identity: None,
        secret: None,
        topic: None,
        by: By::Team,
        if_version: None,
    }
}

fn names(events: &[crate::Event]) -> Vec<&str> {
    events.iter().map(crate::Event::name).collect()
}

#[test]
fn an_account_beyond_the_limit_is_refused() {
    let team = with_limits(Limits { sending_accounts: 0, ..Limits::default() });
    let limit = LimitReached { resource: Resource::SendingAccounts, max: 0 };
    given(team).when(create(1, false)).then_rejected(&Rejected::Limit(limit));
}

#[test]
fn a_refused_login_breaks_an_account_until_its_credentials_change() {
    let mut log = with_account(false);
    let refuse = BreakProvider { provider: provider_id(1), trouble: Trouble::LoginRefused, message: "535".into() };
    log.extend(given(log.clone()).when(refuse.clone()).then_events());
    given(log.clone()).when(refuse).then_nothing();
    let renamed = ChangeProvider {
        identity: Some(Identity { name: "Other".into(), username: Some("ann".into()), ..Identity::default() }),
        ..change()
    };
    let events = given(log.clone()).when(renamed).then_events();
    assert_eq!(names(&events), ["provider.reconfigured"]);
    let replaced = ChangeProvider { secret: Some(secret_id(9)), ..change() };
    let events = given(log).when(replaced).then_events();
    assert_eq!(names(&events), ["provider.credentials_replaced", "provider.mended"]);
}

#[test]
fn a_successful_test_mends_and_a_refused_login_breaks() {
    let mut log = with_account(false);
    let test = |tested_at, result| RecordProviderTest {
        provider: provider_id(1),
        tested_at,
        latency_milliseconds: 12,
        message: "ok".into(),
        result,
    };
    let events = given(log.clone()).when(test(NOW, Err(Some(Trouble::LoginRefused)))).then_events();
    assert_eq!(names(&events), ["provider.tested", "provider.broken"]);
    log.extend(events);
    let events = given(log.clone()).when(test(NOW + 1, Ok(()))).then_events();
    assert_eq!(names(&events), ["provider.tested", "provider.mended"]);
}

#[test]
fn a_team_changes_only_the_variables_of_a_managed_account() {
    let log = with_account(true);
    let identity = Identity { name: "Main".into(), username: Some("ann".into()), ..Identity::default() };
    let renamed = Identity { name: "Mine".into(), ..identity.clone() };
    given(log.clone()).when(ChangeProvider { identity: Some(renamed), ..change() }).then_rejected(&Rejected::Managed);
    let variables = BTreeMap::from([("city".to_owned(), "Bern".to_owned())]);
    let events = given(log.clone())
        .when(ChangeProvider { identity: Some(Identity { variables, ..identity }), ..change() })
        .then_events();
    assert_eq!(names(&events), ["provider.reconfigured"]);
    given(log).when(DeleteProvider { provider: provider_id(1), by: By::Team }).then_rejected(&Rejected::Managed);
}

#[test]
fn a_deleted_account_stays_deleted() {
    let mut log = with_account(false);
    log.extend(given(log.clone()).when(DeleteProvider { provider: provider_id(1), by: By::Team }).then_events());
    given(log.clone())
        .when(SwitchProvider { provider: provider_id(1), active: true })
        .then_rejected(&Rejected::Unknown);
    given(log).when(create(1, false)).then_rejected(&Rejected::Exists);
}
