//! What a handler needs of its caller, in its signature.
//!
//! A handler's first argument is a [`Door`]: it authenticates, counts the request, checks the surface and the
//! permission, all before anything else of the request is looked at. Routes are registered through [`Guarded`], which
//! reads the door from the handler's own type: a handler without one does not compile.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use domain::Command;
use domain::api_key::Kind;
use domain::id::{MailboxId, RequestId, TeamId};
use eventlog::Submission;

use super::{Caller, Refused};
use crate::App;
use crate::conventions::Context;
use crate::envelope::{Data, List, Meta};
use crate::problem::Problem;

/// Which class of credential a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Nobody is asked who they are.
    Public,
    /// Any key.
    Any,
    /// Infrastructure keys.
    Management,
    /// Mailbox keys.
    Mailbox,
    /// A sending key, or a mailbox key that sends as its mailbox.
    Sending,
}

impl Surface {
    /// Returns the name in the API document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Any => "any",
            Self::Management => "management",
            Self::Mailbox => "mailbox",
            Self::Sending => "sending",
        }
    }

    fn admits(self, kind: Kind) -> bool {
        match self {
            Self::Public | Self::Any => true,
            Self::Management => kind == Kind::Infrastructure,
            Self::Mailbox => kind == Kind::Mailbox,
            Self::Sending => matches!(kind, Kind::Sending | Kind::Mailbox),
        }
    }
}

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The class of credential.
    pub surface: Surface,
    /// The permission; `None` when any credential of the class will do.
    pub permission: Option<&'static str>,
}

/// A name for what a route needs.
pub trait Guard: Send + Sync + 'static {
    /// What it stands for.
    const NEEDS: Needs;
}

macro_rules! guards {
    ($($name:ident: $surface:ident $($permission:literal)?;)+) => {$(
        #[doc = concat!("Stands for ", stringify!($surface) $(, " with `", $permission, "`")?, ".")]
        #[derive(Debug, Clone, Copy)]
        pub struct $name;
        impl Guard for $name {
            const NEEDS: Needs = Needs { surface: Surface::$surface, permission: guards!(@ $($permission)?) };
        }
    )+};
    (@) => { None };
    (@ $permission:literal) => { Some($permission) };
}

/// All guards there are.
pub mod guards {
    use super::{Guard, Needs, Surface};

    guards! {
        AnalyticsRead: Management "analytics.read";
        AnyKey: Any;
        AnyMailboxKey: Mailbox;
        AuditRead: Management "audit.read";
        BillingRead: Management "billing.read";
        DomainCreate: Management "domain.create";
        DomainDelete: Management "domain.delete";
        DomainRead: Management "domain.read";
        DomainVerify: Management "domain.verify";
        EmailSend: Sending "email.send";
        EventRead: Management "event.read";
        KeyCreate: Management "key.create";
        KeyRead: Management "key.read";
        KeyRevoke: Management "key.revoke";
        KeyRotate: Management "key.rotate";
        LogsRead: Management "logs.read";
        MailboxAdminCreate: Management "mailbox.admin.create";
        MailboxAdminDelete: Management "mailbox.admin.delete";
        MailboxAdminManage: Management "mailbox.admin.manage";
        MailboxAdminRead: Management "mailbox.admin.read";
        MailboxRead: Mailbox "mailbox.read";
        MailboxSend: Mailbox "email.send";
        MailboxSettingsUpdate: Mailbox "mailbox.settings.update";
        ProviderCreate: Management "provider.create";
        ProviderDelete: Management "provider.delete";
        ProviderRead: Management "provider.read";
        ProviderUpdate: Management "provider.update";
        RoutingCreate: Management "routing.create";
        RoutingDelete: Management "routing.delete";
        RoutingRead: Management "routing.read";
        RoutingUpdate: Management "routing.update";
        SendingManage: Management "sending.manage";
        SendingRead: Management "sending.read";
        SuppressionManage: Management "suppression.manage";
        SuppressionRead: Management "suppression.read";
        WebhookCreate: Management "webhook.create";
        WebhookDelete: Management "webhook.delete";
        WebhookManage: Management "webhook.manage";
        WebhookRead: Management "webhook.read";
        WebhookUpdate: Management "webhook.update";
    }
}

/// One request of somebody who may make it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who.
    pub caller: Arc<Caller>,
    /// The request's id.
    pub request: RequestId,
    /// Where it came from.
    pub client_ip: Option<IpAddr>,
    /// When it came, microseconds since the Unix epoch.
    pub at: i64,
}

impl Call {
    /// Returns the submission of a command in the caller's name.
    pub fn submission<C: Command>(&self, command: C) -> Submission<C> {
        let (team, actor) = (self.caller.team.clone(), self.caller.actor.clone());
        let submission = Submission::new(team, self.at, actor, self.request.as_str(), command);
        match self.client_ip {
            Some(ip) => submission.from_ip(ip.to_string()),
            None => submission,
        }
    }

    /// Returns the meta object of the answer.
    #[must_use]
    pub fn meta(&self) -> Meta {
        Meta::new(self.request.as_str())
    }

    /// Returns the body that answers with one thing.
    pub fn data<T: utoipa::ToSchema>(&self, data: T) -> Data<T> {
        Data { ok: true, data, meta: self.meta() }
    }

    /// Returns the body that answers with a page of things.
    pub fn list<T: utoipa::ToSchema>(&self, data: Vec<T>, next_cursor: Option<String>) -> List<T> {
        List { ok: true, data, pagination: next_cursor.into(), meta: self.meta() }
    }

    /// Returns the mailbox a mailbox key is confined to.
    ///
    /// # Errors
    /// The key is no mailbox key, which the guards of the mailbox surface exclude.
    pub fn mailbox(&self) -> Result<&MailboxId, Problem> {
        self.caller.mailbox.as_ref().ok_or_else(|| Problem::forbidden("The credential is not one of a mailbox."))
    }
}

/// A caller that meets a guard.
#[derive(Debug, Clone)]
pub struct Scoped<G> {
    call: Call,
    guard: PhantomData<G>,
}

impl<G> Scoped<G> {
    /// Returns the call alone.
    #[must_use]
    pub fn into_call(self) -> Call {
        self.call
    }
}

impl<G> std::ops::Deref for Scoped<G> {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.call
    }
}

impl<G: Guard> FromRequestParts<App> for Scoped<G> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let call = enter(parts, app, G::NEEDS).await?;
        if parts.method == Method::GET {
            catch_up(app, &call.caller.team).await;
        }
        Ok(Self { call, guard: PhantomData })
    }
}

/// A caller that meets the guard of a route that is answered from the log itself and does not wait for the read models.
#[derive(Debug, Clone)]
pub struct FromLog<G>(Scoped<G>);

impl<G> FromLog<G> {
    /// Returns the call alone.
    #[must_use]
    pub fn into_call(self) -> Call {
        self.0.call
    }
}

impl<G> std::ops::Deref for FromLog<G> {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.0.call
    }
}

impl<G: Guard> FromRequestParts<App> for FromLog<G> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self(Scoped { call: enter(parts, app, G::NEEDS).await?, guard: PhantomData }))
    }
}

/// Authenticates a request, counts it and checks that its caller may make it.
pub(crate) async fn enter(parts: &Parts, app: &App, needs: Needs) -> Result<Call, Problem> {
    let context = parts.extensions.get::<Context>().ok_or_else(|| {
        tracing::error!("a route was reached without its conventions");
        Problem::internal()
    })?;
    let caller = app.auth.authenticate(bearer(&parts.headers)?).await?;
    let allowance = app.limiter.take(&caller.key, caller.kind, context.at);
    context.note(&caller, allowance);
    if !allowance.granted {
        return Err(Problem::new(crate::problem::Code::RateLimitExceeded, "Too many requests.")
            .retry_after(allowance.retry_after_seconds));
    }
    if !needs.surface.admits(caller.kind) {
        return Err(Problem::forbidden("The credential is not for this API."));
    }
    if needs.permission.is_some_and(|permission| !caller.may(permission)) {
        return Err(Problem::forbidden("The credential lacks the permission for this operation."));
    }
    if needs.surface == Surface::Mailbox {
        own_mailbox(&caller, parts.uri.query().unwrap_or_default())?;
    }
    Ok(Call { caller, request: context.request.clone(), client_ip: context.client_ip, at: context.at })
}

/// Waits, bounded, until the read models show everything this node has acknowledged or streamed: a client that was told of
/// a message by a stream or a webhook finds it.
async fn catch_up(app: &App, team: &TeamId) {
    if let Ok(head) = app.log.known_head(team).await {
        app.views.wait_for(team, head, Duration::from_millis(app.config.read_your_writes_milliseconds_max)).await;
    }
}

/// Returns the secret of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Problem::unauthenticated())?,
        // Two credentials: whichever we took, somebody in front of us may have checked the other.
        _ => return Err(Problem::unauthenticated()),
    };
    match value.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") => Ok(secret.trim_matches(' ')),
        _ => Err(Problem::unauthenticated()),
    }
}

/// Refuses a selected mailbox that is not the key's own.
fn own_mailbox(caller: &Caller, query: &str) -> Result<(), Problem> {
    let own = caller.mailbox.as_ref().map(MailboxId::as_str);
    let foreign = url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "mailbox_id" && Some(value.as_ref()) != own);
    if foreign || own.is_none() {
        return Err(Problem::forbidden("The credential does not cover this mailbox."));
    }
    Ok(())
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::unauthenticated(),
            Refused::Suspended => Self::forbidden("The mailbox is suspended."),
            Refused::Log(error) => error.into(),
        }
    }
}

/// The first argument of every handler: it decides who may come in.
pub trait Door: FromRequestParts<App> {
    /// What it asks of the caller.
    const NEEDS: Needs;
}

impl<G: Guard> Door for Scoped<G> {
    const NEEDS: Needs = G::NEEDS;
}

impl<G: Guard> Door for FromLog<G> {
    const NEEDS: Needs = G::NEEDS;
}

/// The door of a route that is open to everyone.
#[derive(Debug, Clone, Copy)]
pub struct Public;

impl FromRequestParts<App> for Public {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(_: &mut Parts, _: &App) -> Result<Self, Self::Rejection> {
        Ok(Self)
    }
}

impl Door for Public {
    const NEEDS: Needs = Needs { surface: Surface::Public, permission: None };
}

/// The arguments of a handler whose first one is a door.
pub trait Guarded {
    /// What that door asks of the caller.
    const NEEDS: Needs;
}

macro_rules! guarded {
    ($($argument:ident),*) => {
        impl<M, D: Door, $($argument),*> Guarded for (M, D, $($argument,)*) {
            const NEEDS: Needs = D::NEEDS;
        }
    };
}

guarded!();
guarded!(A);
guarded!(A, B);
guarded!(A, B, C);
guarded!(A, B, C, E);
guarded!(A, B, C, E, F);
guarded!(A, B, C, E, F, G);
