//! The door for notifications of sending accounts, which Amazon SNS knocks at.

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;

use crate::auth::Public;
use crate::conventions::Context;
use crate::openapi::Routes;
use crate::problem::Problem;
use crate::{App, body, door, sns};

pub(super) fn routes() -> Routes {
    Routes::new().with(door!(take_provider_notification))
}

/// Take a notification of a sending account
///
/// Amazon SNS posts here what becomes of mail that was sent through an account at Amazon SES. The URL is the account's
/// `ses_notifications_url`; what is not signed by Amazon SNS, or not of the account's topic, is refused.
#[utoipa::path(
    post,
    path = "/provider-notifications/{token}",
    tag = "Sending accounts",
    operation_id = "managementTakeProviderNotification",
    params(("token" = String, Path, description = "Names the account; nobody can guess it", example = "drzgk3lkofz3m2lq")),
    request_body(content = Object, content_type = "text/plain", description = "A message of Amazon SNS: JSON under any content type"),
    responses(
        (status = 204, description = "Taken, or of no interest"),
        (status = 400, description = "It is no message of Amazon SNS", body = crate::problem::Body),
        (status = 403, description = "It is forged, old, or of another topic", body = crate::problem::Body),
        (status = 404, description = "No such account", body = crate::problem::Body),
        (status = 409, description = "The account was bound to another topic meanwhile", body = crate::problem::Body),
    ),
)]
async fn take_provider_notification(
    _: Public,
    State(app): State<App>,
    Path(token): Path<String>,
    Extension(context): Extension<Context>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let account = app.notifications.account(&token).ok_or_else(Problem::not_found)?;
    let (parts, content) = request.into_parts();
    let content = body::bounded(&parts.headers, content, sns::BODY_BYTES_MAX).await?;
    sns::take(&app, &account, &content, &context.request).await?;
    Ok(StatusCode::NO_CONTENT)
}
