//! Every error the native API answers: one table of codes, statuses and whether trying again may help.
//!
//! The table is the contract's, and one code of our own (`method_not_allowed`). Every rejection of the domain is mapped
//! here and nowhere else, without a wildcard: a new one does not compile until somebody has decided what callers see.

use std::borrow::Cow;

use axum::http::header::{ALLOW, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::{api_key, mailbox, message, webhook_endpoint};
use eventlog::{DirectoryKey, LogError, StoreError, TransactError};
use serde::Serialize;

use crate::etag::ETag;

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal, $status:ident, retryable: $retryable:literal;)+) => {
        /// What went wrong, as programs read it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $name)] $code,)+
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// Returns the code as it stands in an answer.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => $name,)+ }
            }

            /// Returns the HTTP status it is answered with.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)+ }
            }

            /// Returns whether the same request may succeed later.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(Self::$code => $retryable,)+ }
            }
        }
    };
}

codes! {
    /// A malformed value, JSON that does not parse or does not fit.
    InvalidParameter = "invalid_parameter", BAD_REQUEST, retryable: false;
    /// A required parameter is absent.
    MissingParameter = "missing_parameter", BAD_REQUEST, retryable: false;
    /// No credential, or one that does not work.
    AuthenticationRequired = "authentication_required", UNAUTHORIZED, retryable: false;
    /// The balance is too low.
    InsufficientCredits = "insufficient_credits", PAYMENT_REQUIRED, retryable: false;
    /// The credential may not do this.
    InsufficientPermissions = "insufficient_permissions", FORBIDDEN, retryable: false;
    /// The team may not send at present.
    BillingRestricted = "billing_restricted", FORBIDDEN, retryable: false;
    /// There is no such thing, or it is another team's.
    NotFound = "not_found", NOT_FOUND, retryable: false;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, retryable: false;
    /// It changed since it was read, is taken, or is in the wrong state.
    Conflict = "conflict", CONFLICT, retryable: false;
    /// The team has as many of them as it may.
    LimitExceeded = "limit_exceeded", CONFLICT, retryable: false;
    /// The idempotency key belongs to another request.
    IdempotencyConflict = "idempotency_conflict", CONFLICT, retryable: false;
    /// The body is too large.
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, retryable: false;
    /// It parses, but a rule forbids it.
    ValidationError = "validation_error", UNPROCESSABLE_ENTITY, retryable: false;
    /// Too many requests.
    RateLimitExceeded = "rate_limit_exceeded", TOO_MANY_REQUESTS, retryable: true;
    /// Our fault.
    InternalError = "internal_error", INTERNAL_SERVER_ERROR, retryable: true;
    /// No sending account can take the message.
    NoActiveProviders = "no_active_providers", SERVICE_UNAVAILABLE, retryable: true;
    /// It does not work at present.
    ServiceUnavailable = "service_unavailable", SERVICE_UNAVAILABLE, retryable: true;
}

/// One thing wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where, as a dotted path.
    #[schema(example = "send_scope.type")]
    pub field: String,
    /// What kind of fault.
    #[schema(example = "unknown_field")]
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    message: Cow<'static, str>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
    retry_after_seconds: Option<u64>,
}

/// A request that is not fulfilled: answered as JSON with a request id by [`crate::conventions`].
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

/// How long a client waits before it tries again when nothing better is known, seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

impl Problem {
    /// Returns a problem with a message for people.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            code,
            message: message.into(),
            errors: vec![],
            headers: vec![],
            retry_after_seconds: code.retryable().then_some(RETRY_AFTER_SECONDS),
        }))
    }

    /// Returns the answer for what is not there and for what is another team's: the same in both cases.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "There is no such resource.")
    }

    /// Returns the answer to a request without a working credential.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(Code::AuthenticationRequired, "A valid credential is required.")
    }

    /// Returns the answer to a credential that may not do this.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InsufficientPermissions, message)
    }

    /// Returns the answer to a value that is not acceptable, naming it.
    pub fn invalid(field: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let shown = format!("The request is not valid: {message}");
        Self::new(Code::InvalidParameter, shown).with_errors(vec![FieldError {
            field: field.into(),
            code: code.to_owned(),
            message,
        }])
    }

    /// Returns the answer to an absent value, naming it.
    pub fn missing(field: impl Into<String>) -> Self {
        let field = field.into();
        let message = format!("{field} is required");
        Self::new(Code::MissingParameter, message.clone()).with_errors(vec![FieldError {
            field,
            code: "required".to_owned(),
            message,
        }])
    }

    /// Returns the answer to a value that parses but breaks a rule, naming it.
    pub fn unacceptable(field: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(Code::ValidationError, message.clone()).with_errors(vec![FieldError {
            field: field.into(),
            code: code.to_owned(),
            message,
        }])
    }

    /// Returns the answer to a write based on an old version; the current one is named.
    #[must_use]
    pub fn version_mismatch(current: u64) -> Self {
        Self::new(Code::Conflict, "The resource has changed since it was read.")
            .with_header(ETAG, ETag::of_version(current).header())
    }

    /// Returns the answer to our own fault. What happened is in the log under the request's id, not in the answer.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Code::InternalError, "An internal error occurred.")
    }

    /// Returns the answer while something does not work.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(Code::ServiceUnavailable, "The service is not available at present.")
    }

    /// Returns this problem as one of content where a field does not fit, as the sending API answers it.
    #[must_use]
    pub fn into_validation(mut self) -> Self {
        let of_field = self.0.errors.first().is_some_and(|e| e.field != "body");
        if self.0.code == Code::InvalidParameter && of_field {
            self.0.code = Code::ValidationError;
        }
        self
    }

    /// Returns this problem's detail as a part of another answer.
    pub(crate) fn detail(&self) -> ErrorBody {
        let parts = &self.0;
        ErrorBody {
            code: parts.code,
            message: parts.message.clone(),
            retryable: parts.code.retryable(),
            param: parts.errors.first().map(|e| e.field.clone()),
            errors: parts.errors.clone(),
        }
    }

    /// Returns this problem with a list of single faults.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// Returns this problem with a header on its answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Returns this problem with the time after which trying again makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Returns everything that is wrong.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// Returns the answer's body and headers for a request.
    pub(crate) fn render(&self, request_id: &str, challenge: &HeaderValue) -> Response {
        let parts = &self.0;
        let body = Body { ok: false, error: self.detail(), meta: crate::envelope::Meta::new(request_id) };
        let mut response = (parts.code.status(), axum::Json(body)).into_response();
        let headers = response.headers_mut();
        for (name, value) in &parts.headers {
            headers.insert(name, value.clone());
        }
        if let Some(seconds) = parts.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if parts.code == Code::AuthenticationRequired {
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        response
    }

    /// Returns the answer to a method that a path does not have; `allow` lists those it has.
    #[must_use]
    pub fn method_not_allowed(allow: Option<&HeaderValue>) -> Self {
        let problem = Self::new(Code::MethodNotAllowed, "The resource does not have this method.");
        match allow {
            Some(allow) => problem.with_header(ALLOW, allow.clone()),
            None => problem,
        }
    }
}

impl IntoResponse for Problem {
    /// Returns an unfinished answer: the problem travels in its extensions until the request's id is known.
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What went wrong.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ApiError)]
pub(crate) struct Body {
    /// Always false.
    ok: bool,
    error: ErrorBody,
    meta: crate::envelope::Meta,
}

/// The error of an answer.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = ApiErrorDetail)]
pub(crate) struct ErrorBody {
    code: Code,
    /// For people.
    message: Cow<'static, str>,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// The first faulty field or parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    param: Option<String>,
    /// Everything that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl From<domain::team::LimitReached> for Problem {
    fn from(limit: domain::team::LimitReached) -> Self {
        Self::new(Code::LimitExceeded, sentence(&limit))
    }
}

impl From<api_key::Rejected> for Problem {
    fn from(rejected: api_key::Rejected) -> Self {
        use api_key::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown | R::UnknownMailbox => Self::not_found(),
            R::MailboxNotActive => Self::new(Code::ValidationError, sentence(&rejected)),
            R::Revoked | R::Exists => Self::new(Code::Conflict, sentence(&rejected)),
            R::Limit(limit) => limit.into(),
        }
    }
}

impl From<mailbox::Rejected> for Problem {
    fn from(rejected: mailbox::Rejected) -> Self {
        use mailbox::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::Exists | R::Closed => Self::new(Code::Conflict, sentence(&rejected)),
            R::DomainNotAvailable => Self::unacceptable("email", "domain_not_available", sentence(&rejected)),
            R::Limit(limit) => limit.into(),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<message::Rejected> for Problem {
    fn from(rejected: message::Rejected) -> Self {
        use message::Rejected as R;
        match rejected {
            R::UnknownMailbox | R::Unknown => Self::not_found(),
            R::Suspended => Self::forbidden(sentence(&rejected)),
            R::SenderRefused | R::OverQuota => Self::new(Code::ValidationError, sentence(&rejected)),
            R::TooManyKeywords { .. } => Self::unacceptable("keywords", "too_many", sentence(&rejected)),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<domain::outbound::Rejected> for Problem {
    fn from(rejected: domain::outbound::Rejected) -> Self {
        use domain::outbound::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::Recipients => Self::unacceptable("to", "too_many", sentence(&rejected)),
            R::KeyRevoked => Self::unauthenticated(),
            R::MailboxNotActive | R::SenderNotAllowed => Self::forbidden(sentence(&rejected)),
            R::UnknownGroup(_) => Self::unacceptable("delivery_group", "unknown_group", sentence(&rejected)),
            R::NoActiveProviders => Self::new(Code::NoActiveProviders, sentence(&rejected)),
            R::InsufficientCredits { .. } => Self::new(Code::InsufficientCredits, sentence(&rejected)),
            R::Paused | R::NotDue | R::AccountNotEligible | R::WrongAttempt | R::TooLate | R::NotSent => {
                Self::new(Code::Conflict, sentence(&rejected))
            }
            R::AddressNotRead(_) => Self::internal(),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<domain::provider::Rejected> for Problem {
    fn from(rejected: domain::provider::Rejected) -> Self {
        use domain::provider::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::Exists | R::AnotherTopic => Self::new(Code::Conflict, sentence(&rejected)),
            R::NoNotifications => Self::unacceptable("ses_topic_arn", "not_applicable", sentence(&rejected)),
            R::Managed => Self::new(Code::ValidationError, sentence(&rejected)),
            R::Limit(limit) => limit.into(),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<domain::delivery_group::Rejected> for Problem {
    fn from(rejected: domain::delivery_group::Rejected) -> Self {
        use domain::delivery_group::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::Exists => Self::new(Code::Conflict, sentence(&rejected)),
            R::UnknownMember(_) => Self::unacceptable("members", "unknown_provider", sentence(&rejected)),
            R::TooManyMembers => Self::unacceptable("members", "too_many", sentence(&rejected)),
            R::TooManyGroups => Self::new(Code::LimitExceeded, sentence(&rejected)),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<domain::sending_domain::Rejected> for Problem {
    fn from(rejected: domain::sending_domain::Rejected) -> Self {
        use domain::sending_domain::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown | R::UnknownKey => Self::not_found(),
            R::Exists | R::InUse { .. } | R::DoesNotReceive | R::SelectorTaken | R::TooManyKeys => {
                Self::new(Code::Conflict, sentence(&rejected))
            }
            R::ModeNotChangeable => Self::unacceptable("mode", "not_changeable", sentence(&rejected)),
            R::Limit(limit) => limit.into(),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl From<domain::suppression::Rejected> for Problem {
    fn from(rejected: domain::suppression::Rejected) -> Self {
        use domain::suppression::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::TooManyCauses => Self::new(Code::Conflict, sentence(&rejected)),
        }
    }
}

impl From<domain::team::Rejected> for Problem {
    fn from(rejected: domain::team::Rejected) -> Self {
        use domain::team::Rejected as R;
        match rejected {
            R::Unknown | R::NoSuchRequest => Self::not_found(),
            R::Exists | R::RequestPending(_) => Self::new(Code::Conflict, sentence(&rejected)),
            R::BelowThreshold { .. } => Self::new(Code::ValidationError, sentence(&rejected)),
        }
    }
}

impl From<webhook_endpoint::Rejected> for Problem {
    fn from(rejected: webhook_endpoint::Rejected) -> Self {
        use webhook_endpoint::Rejected as R;
        match rejected {
            R::UnknownTeam | R::Unknown => Self::not_found(),
            R::Exists | R::NotSubscribedToTests | R::Disabled => Self::new(Code::Conflict, sentence(&rejected)),
            R::Limit(limit) => limit.into(),
            R::VersionMismatch { current } => Self::version_mismatch(current),
        }
    }
}

impl<R> From<TransactError<R>> for Problem
where
    R: std::error::Error + 'static,
    Self: From<R>,
{
    fn from(error: TransactError<R>) -> Self {
        match error {
            TransactError::Rejected(rejected) => rejected.into(),
            TransactError::Taken(DirectoryKey::Address(_)) => Self::new(Code::Conflict, "The address is in use."),
            TransactError::Taken(DirectoryKey::Domain(_)) => Self::new(Code::Conflict, "The domain is in use."),
            TransactError::Taken(DirectoryKey::KeyLookup(_)) => {
                tracing::error!("a minted key has the digest of another one; the random source must be checked");
                Self::internal()
            }
            TransactError::IdempotencyMismatch => {
                Self::new(Code::IdempotencyConflict, "The idempotency key was used for another request.")
            }
            TransactError::Overloaded => Self::unavailable(),
            TransactError::Full => {
                tracing::error!("the log's store is full; writes are refused");
                Self::unavailable().retry_after(30)
            }
            TransactError::Unavailable(why) => {
                tracing::warn!(error = why, "the log did not take a command");
                Self::unavailable()
            }
            TransactError::Stopped => Self::unavailable().retry_after(5),
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Store(StoreError::Unavailable(why) | StoreError::Full(why)) => {
                tracing::warn!(error = why, "the log did not answer");
                Self::unavailable()
            }
            LogError::Store(StoreError::Corrupt(_))
            | LogError::Corrupt(_)
            | LogError::Gap { .. }
            | LogError::Seal(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the log is not readable");
                Self::internal()
            }
        }
    }
}

/// Returns an error's text as a sentence.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_contracts() {
        let table: Vec<_> = Code::ALL.iter().map(|c| (c.as_str(), c.status().as_u16(), c.retryable())).collect();
        assert_eq!(
            table,
            [
                ("invalid_parameter", 400, false),
                ("missing_parameter", 400, false),
                ("authentication_required", 401, false),
                ("insufficient_credits", 402, false),
                ("insufficient_permissions", 403, false),
                ("billing_restricted", 403, false),
                ("not_found", 404, false),
                ("method_not_allowed", 405, false),
                ("conflict", 409, false),
                ("limit_exceeded", 409, false),
                ("idempotency_conflict", 409, false),
                ("payload_too_large", 413, false),
                ("validation_error", 422, false),
                ("rate_limit_exceeded", 429, true),
                ("internal_error", 500, true),
                ("no_active_providers", 503, true),
                ("service_unavailable", 503, true),
            ]
        );
    }

    #[test]
    fn whatever_may_be_tried_again_says_when() {
        let challenge = HeaderValue::from_static("Bearer");
        for code in Code::ALL {
            let response = Problem::new(*code, "x").render("req_1", &challenge);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), code.retryable(), "{}", code.as_str());
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), response.status() == 401);
        }
    }
}
