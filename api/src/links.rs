//! The links that outgoing mail carries: one that unsubscribes, and a picture that shows that the mail was opened.
//!
//! Both are for strangers, so that they need no key: a token names the mail and the recipient, holds nothing about the
//! person, and is made by nobody without the installation's secret. What a GET of the first shows changes nothing (mail
//! scanners follow links); one POST unsubscribes (RFC 8058). The second never answers anything but the picture.

use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, USER_AGENT,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use domain::bounce::Source;
use domain::id::{OutboundId, TeamId};
use domain::outbound::report::Report;
use domain::outbound::{Feedback, Machine, Outbound, Recipient, RecordFeedback, ReturnPath, UnsubscribeMethod};
use domain::{Actor, Command, StreamId, Versioned};
use eventlog::Submission;
use mail::compose::ListUnsubscribe;
use mail::unsubscribe::{Subscription, is_one_click};
use mail::verp::MacKey;

use crate::App;
use crate::auth::secret::Pepper;
use crate::conventions::Context;
use crate::unsubscription::Unsubscription;

const UNSUBSCRIBE_KEY: &[u8] = b"postlog/unsubscribe-key/1\0";
const OPEN_KEY: &[u8] = b"postlog/open-key/1\0";
/// The longest form that is read; a longer one is no one-click form.
const FORM_BYTES_MAX: usize = 4_096;
/// A transparent picture of one point.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// Makes and reads the links. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Links {
    origin: String,
    unsubscribe: MacKey,
    open: MacKey,
    /// Addresses that unsubscribe are made with this key, at this domain.
    mailto: Option<(MacKey, String)>,
}

/// One recipient of one mail.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MailCopy {
    team: TeamId,
    outbound: OutboundId,
    recipient: u8,
    topic: Option<String>,
}

impl MailCopy {
    fn subscription(&self) -> Subscription {
        Subscription {
            team: self.team.to_string(),
            stream: self.topic.clone().unwrap_or_default(),
            recipient: format!("{}/{}", self.outbound, self.recipient),
        }
    }

    fn of(subscription: Subscription) -> Option<Self> {
        let Subscription { team, stream, recipient } = subscription;
        let (outbound, recipient) = recipient.split_once('/')?;
        Some(Self {
            team: team.parse().ok()?,
            outbound: outbound.parse().ok()?,
            recipient: recipient.parse().ok()?,
            topic: (!stream.is_empty()).then_some(stream),
        })
    }
}

impl Links {
    /// Returns the links of an installation that is reached under this origin.
    #[must_use]
    pub fn new(origin: &str, pepper: &Pepper) -> Self {
        Self {
            origin: origin.trim_end_matches('/').to_owned(),
            unsubscribe: MacKey::new(pepper.mac(UNSUBSCRIBE_KEY, &[])),
            open: MacKey::new(pepper.mac(OPEN_KEY, &[])),
            mailto: None,
        }
    }

    /// Returns the same links with an address beside each link that unsubscribes (RFC 2369 §3.2), at the domain where
    /// returned mail arrives.
    #[must_use]
    pub fn with_mailto(self, pepper: &Pepper, bounce_domain: Option<&str>) -> Self {
        Self { mailto: bounce_domain.map(|domain| (pepper.return_path_key(), domain.to_owned())), ..self }
    }

    /// Returns what a mail to one recipient carries so that it can be unsubscribed from, by topic if it has one.
    ///
    /// `None` where the installation cannot be reached by `https`, which RFC 8058 §3.1 asks for; this machine alone
    /// may do without.
    #[must_use]
    pub fn unsubscribe(&self, team: &TeamId, outbound: &OutboundId, topic: Option<&str>) -> Option<ListUnsubscribe> {
        if !mail::compose::is_link(&self.origin) {
            return None;
        }
        let copy =
            MailCopy { team: team.clone(), outbound: outbound.clone(), recipient: 0, topic: topic.map(str::to_owned) };
        let token = copy.subscription().token(&self.unsubscribe)?;
        let mailto = self.mailto.as_ref().and_then(|(key, domain)| {
            let address = ReturnPath::token(team, outbound, Some(0)).unsubscribe_address(key, domain).ok()?;
            Some(address.to_string())
        });
        Some(ListUnsubscribe { url: format!("{}/u/{token}", self.origin), mailto })
    }

    /// Returns the address of the picture that shows that a mail to one recipient was opened.
    #[must_use]
    pub fn pixel(&self, team: &TeamId, outbound: &OutboundId) -> Option<String> {
        let copy = MailCopy { team: team.clone(), outbound: outbound.clone(), recipient: 0, topic: None };
        let token = copy.subscription().token(&self.open)?;
        Some(format!("{}/o/{token}", self.origin))
    }

    fn read(token: &str, key: &MacKey) -> Option<MailCopy> {
        Subscription::from_token(token, key).and_then(MailCopy::of)
    }
}

/// Returns an HTML body with the picture at its end.
#[must_use]
pub fn with_pixel(html: &str, url: &str) -> String {
    let picture = format!("<img src=\"{url}\" width=\"1\" height=\"1\" alt=\"\" style=\"display:none\">");
    let lower = html.to_ascii_lowercase();
    let at = lower.rfind("</body").unwrap_or(html.len());
    let (before, after) = html.split_at(at);
    format!("{before}{picture}{after}")
}

/// Returns the routes of the links, which are no part of the API.
pub(crate) fn router() -> axum::Router<App> {
    axum::Router::new()
        .route("/u/{token}", get(show_unsubscribe).post(unsubscribe))
        .route("/o/{token}", get(show_pixel))
}

/// Returns a page of ours. It loads nothing and tells nobody where the reader came from.
fn text_page(status: StatusCode, title: &str, content: &str) -> Response {
    let body = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><meta name=\"robots\" content=\"noindex\"><title>{title}</title></head>\
         <body><h1>{title}</h1>{content}</body></html>"
    );
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; form-action 'self'")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (status, headers, body).into_response()
}

fn no_such_link() -> Response {
    text_page(StatusCode::NOT_FOUND, "No such link", "<p>The link is not complete, or it was not made here.</p>")
}

fn try_again() -> Response {
    text_page(StatusCode::SERVICE_UNAVAILABLE, "Please try again", "<p>This could not be done at present.</p>")
}

/// Shows what can be done, and does nothing.
async fn show_unsubscribe(State(app): State<App>, Path(token): Path<String>) -> Response {
    if Links::read(&token, &app.links.unsubscribe).is_none() {
        return no_such_link();
    }
    // Without an action the form goes to where the page came from.
    let form = "<p>Do you want no more mail of this kind?</p><form method=\"post\">\
                <input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
                <input type=\"hidden\" name=\"from\" value=\"page\">\
                <button type=\"submit\">Unsubscribe</button></form>";
    text_page(StatusCode::OK, "Unsubscribe", form)
}

/// Unsubscribes: at once, without a question, and as often as it is asked for.
async fn unsubscribe(State(app): State<App>, Path(token): Path<String>, request: Request) -> Response {
    let Some(copy) = Links::read(&token, &app.links.unsubscribe) else { return no_such_link() };
    let (parts, body) = request.into_parts();
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let asked = axum::body::to_bytes(body, FORM_BYTES_MAX).await.unwrap_or_default();
    if !is_one_click(content_type, &asked) {
        let content = "<p>Nothing was changed: the request was not the one that unsubscribes.</p>";
        return text_page(StatusCode::BAD_REQUEST, "Not unsubscribed", content);
    }
    let is_page = asked.windows(9).any(|part| part == b"from=page");
    let method = if is_page { UnsubscribeMethod::Page } else { UnsubscribeMethod::OneClick };
    let context = parts.extensions.get::<Context>();
    match record_unsubscription(&app, &copy, method, context).await {
        Ok(true) => text_page(StatusCode::OK, "Unsubscribed", "<p>You get no more mail of this kind.</p>"),
        Ok(false) => no_such_link(),
        Err(error) => {
            tracing::warn!(team.id = %copy.team, error, "an unsubscription could not be recorded");
            try_again()
        }
    }
}

/// Returns a command in the name of this door.
fn submission<C: Command>(app: &App, copy: &MailCopy, context: Option<&Context>, command: C) -> Submission<C> {
    let request = context.map(|context| context.request.to_string()).unwrap_or_default();
    let submission = Submission::new(copy.team.clone(), app.allot.now(), Actor::System("links"), request, command);
    match context.and_then(|context| context.client_ip) {
        Some(ip) => submission.from_ip(ip.to_string()),
        None => submission,
    }
}

async fn mail_of(app: &App, copy: &MailCopy) -> Result<Versioned<Outbound>, String> {
    let streams = [StreamId::Outbound(copy.outbound.clone())];
    app.log.state(&copy.team, &streams).await.map_err(|error| error.to_string())
}

/// Returns whether there is such a recipient.
async fn record_unsubscription(
    app: &App,
    copy: &MailCopy,
    method: UnsubscribeMethod,
    context: Option<&Context>,
) -> Result<bool, String> {
    let wish = Unsubscription {
        team: &copy.team,
        outbound: &copy.outbound,
        recipient: copy.recipient,
        topic: copy.topic.clone(),
        method,
        actor: Actor::System("links"),
        request: context.map(|context| context.request.to_string()).unwrap_or_default(),
        client_ip: context.and_then(|context| context.client_ip).map(|ip| ip.to_string()),
    };
    wish.record(&app.log, app.allot.now()).await
}

/// Answers with the picture, and writes down that it was asked for, if that is of any use.
async fn show_pixel(State(app): State<App>, Path(token): Path<String>, method: Method, headers: HeaderMap) -> Response {
    if method == Method::GET
        && !wants_privacy(&headers)
        && let Some(copy) = Links::read(&token, &app.links.open)
        && let Some(reader) = Reader::of(&headers)
    {
        // Whatever comes of it, the reader gets the picture.
        if let Err(error) = record_opening(&app, &copy, reader).await {
            tracing::debug!(team.id = %copy.team, error, "an opening was not recorded");
        }
    }
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("image/gif")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store, private")),
    ];
    (headers, PIXEL).into_response()
}

/// Returns whether the reader asks not to be followed.
fn wants_privacy(headers: &HeaderMap) -> bool {
    let says_yes = |name: &'static str| headers.get(HeaderName::from_static(name)).is_some_and(|v| v == "1");
    says_yes("dnt") || says_yes("sec-gpc")
}

/// Who fetches a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A mail program that shows it.
    Person,
    /// A proxy that fetches pictures before anybody reads.
    Proxy,
    /// A proxy that fetches a picture when the mail is shown for the first time, or before.
    CachingProxy,
    /// Nobody knows.
    Unknown,
}

impl Reader {
    /// Returns who it is by what it says it is; `None` for programs that look at mail for safety, which do not count.
    fn of(headers: &HeaderMap) -> Option<Self> {
        Self::called(headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default())
    }

    /// Returns who calls itself by this name; `None` for programs that look at mail for safety.
    pub(crate) fn called(agent: &str) -> Option<Self> {
        let lower = agent.trim().to_ascii_lowercase();
        let scanners = ["bot", "crawl", "spider", "scanner", "preview", "proofpoint", "barracuda", "mimecast", "curl/"];
        if scanners.iter().any(|scanner| lower.contains(scanner)) {
            return None;
        }
        Some(match lower.as_str() {
            "" => Self::Unknown,
            // The whole of what Apple's privacy proxies say.
            "mozilla/5.0" => Self::Proxy,
            agent if agent.contains("googleimageproxy") || agent.contains("yahoomailproxy") => Self::CachingProxy,
            _ => Self::Person,
        })
    }

    /// Returns whether it is a program, where nothing is known of earlier openings.
    pub(crate) fn machine_by_name(self) -> Machine {
        match self {
            Self::Person => Machine::No,
            Self::Proxy => Machine::Yes,
            Self::CachingProxy | Self::Unknown => Machine::Unknown,
        }
    }

    fn machine(self, to: &Recipient) -> Machine {
        match self {
            Self::Person => Machine::No,
            Self::Proxy => Machine::Yes,
            // The first fetch may be of the proxy's own accord; one that follows is not.
            Self::CachingProxy if !to.opened.1 => Machine::Yes,
            Self::CachingProxy => Machine::No,
            Self::Unknown => Machine::Unknown,
        }
    }
}

async fn record_opening(app: &App, copy: &MailCopy, reader: Reader) -> Result<(), String> {
    let mail = mail_of(app, copy).await?;
    let Some(to) = mail.recipient(copy.recipient) else { return Ok(()) };
    let machine = reader.machine(to);
    let is_known = if machine == Machine::Yes { to.opened.1 } else { to.opened.0 };
    if is_known || !mail.accepted.as_ref().is_some_and(|accepted| accepted.track_opens) {
        return Ok(());
    }
    let heard = RecordFeedback {
        outbound: copy.outbound.clone(),
        recipient: copy.recipient,
        address: to.address.clone(),
        feedback: Feedback::Opened { machine },
        source: Source::Postlog,
        report: Report::default(),
    };
    // Where the reader is, is not written down: it would say more of a person than anybody asked for.
    app.log.transact(submission(app, copy, None, heard)).await.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(origin: &str) -> Links {
        Links::new(origin, &Pepper::new([3; 32]))
    }

    fn ids() -> (TeamId, OutboundId) {
        (TeamId::new(1, [1; 9]), OutboundId::new(2, [2; 9]))
    }

    #[test]
    fn a_link_names_its_mail_and_neither_link_works_as_the_other() {
        let (team, outbound) = ids();
        let links = links("https://mail.example.com/");
        let url = links.unsubscribe(&team, &outbound, Some("news")).unwrap().url;
        let token = url.strip_prefix("https://mail.example.com/u/").unwrap();
        let read = Links::read(token, &links.unsubscribe).unwrap();
        assert_eq!(
            read,
            MailCopy { team: team.clone(), outbound: outbound.clone(), recipient: 0, topic: Some("news".into()) }
        );
        assert_eq!(Links::read(token, &links.open), None);
        let pixel = links.pixel(&team, &outbound).unwrap();
        let token = pixel.strip_prefix("https://mail.example.com/o/").unwrap();
        assert!(Links::read(token, &links.open).is_some());
        assert_eq!(Links::read(token, &links.unsubscribe), None);
    }

    #[test]
    fn only_https_and_this_machine_carry_unsubscribe_links() {
        let (team, outbound) = ids();
        let has = |origin: &str| links(origin).unsubscribe(&team, &outbound, None).is_some();
        assert!(has("https://mail.example.com"));
        assert!(has("http://127.0.0.1:8080"));
        assert!(!has("http://mail.example.com"));
        assert!(!has("http://127.0.0.1.example.com"));
    }

    #[test]
    fn programs_are_told_from_people() {
        let of = |agent: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, HeaderValue::from_str(agent).unwrap());
            Reader::of(&headers)
        };
        assert_eq!(of("Mozilla/5.0"), Some(Reader::Proxy));
        assert_eq!(of("Mozilla/5.0 (X11; Linux x86_64) Thunderbird/140.0"), Some(Reader::Person));
        assert_eq!(of("Mozilla/5.0 (Windows NT 5.1) (via ggpht.com GoogleImageProxy)"), Some(Reader::CachingProxy));
        assert_eq!(of("SafeLinks scanner"), None);
        assert_eq!(Reader::of(&HeaderMap::new()), Some(Reader::Unknown));
    }

    #[test]
    fn the_picture_is_the_last_of_the_body() {
        assert!(with_pixel("<html><BODY>hi</BODY></html>", "https://x/o/1").contains("hi<img src=\"https://x/o/1\""));
        assert!(with_pixel("<p>hi</p>", "https://x/o/1").ends_with("display:none\">"));
    }
}
