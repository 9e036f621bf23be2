//! Looking into the mails themselves, for what no read model keeps: bodies and header fields of any name.
//!
//! Candidates come from the list with every other filter applied, in its order; each mail is read and judged. One
//! request reads a bounded number of mails, then answers with what it found so far and a cursor behind the last mail
//! it has read, even where that is nothing: a page may hold fewer messages than its limit, and `has_more` says the rest.

use domain::id::MailboxId;
use mail::message::{ParseLimits, headers, parse};
use projections::messages::{self, Filter, Row, Sort};
use projections::{Page, Paged};

use super::message_view::{on_bytes, raw};
use crate::App;
use crate::auth::Call;
use crate::problem::Problem;

/// The most mails one request reads.
const MAILS_MAX: usize = 500;
/// So many bytes of mail end a request's reading as well; what is at hand is finished.
const BYTES_MAX: i64 = 64 * 1024 * 1024;
/// How many candidates are listed at once.
const PAGE: usize = 25;

/// What is looked for in each mail, in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The text or HTML body, as read, contains this.
    pub(super) body: Option<String>,
    /// A field of this name contains this, decoded.
    pub(super) header: Option<(String, String)>,
}

impl Wanted {
    /// Returns whether the list alone answers.
    pub(super) fn is_nothing(&self) -> bool {
        self.body.is_none() && self.header.is_none()
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        let limits = ParseLimits::default();
        let header = self.header.as_ref().is_none_or(|(name, value)| {
            let value = value.to_lowercase();
            let fields = headers(bytes, &limits);
            fields.iter().any(|f| f.name.eq_ignore_ascii_case(name) && f.value.to_lowercase().contains(&value))
        });
        header
            && self.body.as_ref().is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                let parsed = parse(bytes, &limits);
                // The text of an HTML body, not its markup.
                parsed.text.is_some_and(|text| text.to_lowercase().contains(&wanted))
            })
    }
}

/// Returns the next messages that meet the filter and hold what is wanted.
///
/// # Errors
/// The cursor is not one of this list, or a store does not answer.
pub(super) async fn list(
    app: &App,
    call: &Call,
    mailbox: &MailboxId,
    (filter, wanted): (&Filter, &Wanted),
    sort: Sort,
    page: Page,
) -> Result<Paged<Row>, Problem> {
    let mut found = Paged { rows: vec![], next_cursor: page.after };
    let (mut mails, mut bytes) = (0, 0);
    loop {
        // Never more candidates than there is room for: the cursor behind them is then the page's own.
        let limit = PAGE.min(page.limit - found.rows.len());
        let next = Page { after: found.next_cursor.take(), limit };
        let candidates = messages::list(&app.views, &call.caller.team, mailbox, filter, sort, &next).await?;
        found.next_cursor = candidates.next_cursor;
        for row in candidates.rows {
            (mails, bytes) = (mails + 1, bytes + row.size_bytes);
            let (raw, wanted) = (raw(app, call, &row).await?, wanted.clone());
            if on_bytes(raw, move |bytes| wanted.matches(bytes)).await? {
                found.rows.push(row);
            }
        }
        let is_full = found.rows.len() >= page.limit || mails >= MAILS_MAX || bytes >= BYTES_MAX;
        if is_full || found.next_cursor.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &[u8] = b"From: a@example.net\r\nX-Order: =?utf-8?q?Gr=C3=B6=C3=9Fe?= 7\r\nx-order: second\r\n\
        Content-Type: text/html\r\n\r\n<p class=\"needle\">An <b>Invoice</b> for you</p>\r\n";

    fn body(text: &str) -> Wanted {
        Wanted { body: Some(text.into()), header: None }
    }

    fn header(name: &str, value: &str) -> Wanted {
        Wanted { body: None, header: Some((name.into(), value.into())) }
    }

    #[test]
    fn a_body_is_searched_as_it_is_read() {
        assert!(body("an invoice FOR").matches(MAIL));
        assert!(!body("needle").matches(MAIL), "markup is not what anybody reads");
        assert!(!body("a@example.net").matches(MAIL), "the header is not the body");
    }

    #[test]
    fn every_field_of_a_name_is_searched_decoded() {
        assert!(header("X-ORDER", "größe").matches(MAIL));
        assert!(header("x-order", "Second").matches(MAIL));
        assert!(!header("x-order", "third").matches(MAIL));
        assert!(!header("x-missing", "").matches(MAIL));
        let both = Wanted { body: Some("invoice".into()), ..header("x-order", "third") };
        assert!(!both.matches(MAIL), "both must hold");
    }
}
