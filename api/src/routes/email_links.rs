//! The links of outgoing mail: how to unsubscribe, and the picture that shows that it was opened.

use domain::id::OutboundId;
use domain::suppression::Purpose;

use super::email_body::Asked;
use crate::App;
use crate::auth::Call;
use crate::links::with_pixel;
use crate::problem::Problem;

/// Adds to a mail the links it needs. A link stands for one recipient, so that nobody acts for somebody else: mail that
/// carries one goes to one recipient.
pub(super) fn mark(app: &App, call: &Call, outbound: &OutboundId, asked: &mut Asked) -> Result<(), Problem> {
    let draft = &mut asked.draft;
    let is_one = draft.to.len() + draft.cc.len() + draft.bcc.len() == 1;
    let team = &call.caller.team;
    if asked.purpose == Purpose::Bulk && draft.unsubscribe.is_none() {
        if !is_one {
            let message =
                "bulk mail goes to one recipient, whose link to unsubscribe it carries, or has list_unsubscribe";
            return Err(Problem::unacceptable("to", "one_recipient", message));
        }
        draft.unsubscribe = app.links.unsubscribe(team, outbound, asked.topic.as_deref());
    }
    if asked.track_opens {
        if !is_one {
            let message = "mail whose opening is noticed goes to one recipient";
            return Err(Problem::unacceptable("track_opens", "one_recipient", message));
        }
        if let (Some(html), Some(url)) = (&draft.html, app.links.pixel(team, outbound)) {
            draft.html = Some(with_pixel(html, &url));
        }
    }
    Ok(())
}
