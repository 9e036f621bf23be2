//! What the API asks of whatever carries outgoing mail, answered by the SMTP client and the reactor's bookkeeping.

use std::sync::Arc;

use api::carrier::{Carrier, Server, Transcript, Trial};
use async_trait::async_trait;
use dispatcher::outbound::{Queue, TRANSCRIPTS_MICROS};
use dispatcher::smtp::{Mailer, Peer, Protection};
use domain::id::{OutboundId, TeamId};
use domain::provider::{Security, Trouble};
use mail::smtp::client::{Cause, Failure, Login};

struct Outgoing {
    mailer: Mailer,
    queue: Queue,
}

/// Returns what answers the doors, from whatever carries mail.
pub fn carrier(mailer: Mailer, queue: Queue) -> Arc<dyn Carrier> {
    Arc::new(Outgoing { mailer, queue })
}

#[async_trait]
impl Carrier for Outgoing {
    async fn probe(&self, server: Server) -> Trial {
        let protection = match server.security {
            Security::None => Protection::None,
            Security::Starttls => Protection::Starttls,
            Security::Tls => Protection::Tls,
        };
        let has_login = server.login.is_some();
        let login = server.login.map(|login| Login { username: login.username, password: login.password });
        let peer = Peer { key: "probe".to_owned(), host: server.host, port: server.port, protection, login };
        match self.mailer.probe(&peer).await {
            Ok(found) if found.ready && has_login => trial(Ok(()), "The server accepts the login."),
            Ok(found) if found.ready => trial(Ok(()), "The server is ready."),
            Ok(found) => match found.failure {
                Some(failure) => trial(Err(trouble(&failure)), &said(&failure)),
                None => trial(Err(None), "The connection was closed."),
            },
            Err(unreachable) => trial(Err(None), &unreachable.to_string()),
        }
    }

    async fn transcripts(
        &self,
        team: &TeamId,
        mail: &OutboundId,
        now_micros: i64,
    ) -> Result<Vec<Transcript>, projections::Error> {
        let kept = self.queue.transcripts(team, mail).await?;
        // What expired is dropped now and then; until then it is not shown.
        let fresh = kept.into_iter().filter(|t| t.at >= now_micros - TRANSCRIPTS_MICROS);
        let shown = fresh.map(|t| Transcript { attempt: t.attempt, account: t.account, said: t.said, at: t.at });
        Ok(shown.collect())
    }
}

fn trial(result: Result<(), Option<Trouble>>, message: &str) -> Trial {
    Trial { result, message: message.to_owned() }
}

/// Returns what a failure says about the account: servers that are down or busy say nothing.
fn trouble(failure: &Failure) -> Option<Trouble> {
    let permanent = failure.reply.as_ref().is_some_and(mail::smtp::client::ServerReply::is_permanent);
    match failure.cause {
        Cause::AuthRejected if permanent => Some(Trouble::LoginRefused),
        Cause::AuthNotOffered | Cause::AuthWithoutTls | Cause::TlsNotOffered => Some(Trouble::Misconfigured),
        _ => None,
    }
}

/// Returns a failure as one line, with the reply that ended the dialogue.
fn said(failure: &Failure) -> String {
    match &failure.reply {
        None => failure.cause.to_string(),
        Some(reply) => {
            let enhanced = reply.enhanced.as_ref().map(|code| format!("{code} ")).unwrap_or_default();
            format!("{}: {} {enhanced}{}", failure.cause, reply.code, reply.text.replace('\n', " "))
        }
    }
}

#[cfg(test)]
mod tests {
    use mail::bounce::Stage;
    use mail::smtp::client::ServerReply;

    use super::*;

    #[test]
    fn a_refused_password_is_told_from_a_server_that_is_busy() {
        let meant = |code, cause| {
            let reply = ServerReply { code, enhanced: None, text: "no".to_owned() };
            trouble(&Failure { stage: Stage::Auth, cause, reply: Some(reply) })
        };
        assert_eq!(meant(535, Cause::AuthRejected), Some(Trouble::LoginRefused));
        assert_eq!(meant(454, Cause::AuthRejected), None);
        assert_eq!(meant(421, Cause::Reply), None);
    }
}
