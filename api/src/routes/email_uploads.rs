//! Files that were uploaded before the mail they go with.

use super::email_body::Asked;
use crate::App;
use crate::auth::Call;
use crate::openapi::Routes;
use crate::problem::Problem;

pub(super) fn routes() -> Routes {
    Routes::new()
}

/// Puts files that were uploaded before into a draft.
pub(super) async fn fill(_: &App, _: &Call, asked: &mut Asked) -> Result<(), Problem> {
    match asked.uploaded.first() {
        None => Ok(()),
        Some((i, _)) => {
            let field = format!("attachments.{i}.attachment_id");
            Err(Problem::unacceptable(field, "unknown_attachment", "there is no such attachment"))
        }
    }
}
