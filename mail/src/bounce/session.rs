//! Where in a session a host refused, as far as a report tells it.
//!
//! What is refused before RCPT cannot be about the recipient, whatever the words: `no such domain` after MAIL is about
//! the sender's.

use super::Stage;

/// How systems say it, in lower case.
const WAYS: [(&str, Stage); 23] = [
    ("in reply to mail from", Stage::Mail),
    ("after mail from", Stage::Mail),
    ("after mail command", Stage::Mail),
    ("response to mail from", Stage::Mail),
    ("[mail_from]", Stage::Mail),
    ("in reply to rcpt to", Stage::Rcpt),
    ("after rcpt to", Stage::Rcpt),
    ("after rcpt command", Stage::Rcpt),
    ("response to rcpt to", Stage::Rcpt),
    ("[rcpt_to]", Stage::Rcpt),
    ("in reply to end of data", Stage::Data),
    ("in reply to data", Stage::Data),
    ("after end of data", Stage::Data),
    ("after data command", Stage::Data),
    ("response to end of data", Stage::Data),
    ("after initial connection", Stage::Greeting),
    ("refused to talk to me", Stage::Greeting),
    ("initial server greeting", Stage::Greeting),
    ("in reply to ehlo", Stage::Hello),
    ("in reply to helo", Stage::Hello),
    ("after ehlo", Stage::Hello),
    ("after helo", Stage::Hello),
    ("ehlo handshake", Stage::Hello),
];

/// Returns the stage that a text names first.
pub(super) fn stage(text: &str) -> Option<Stage> {
    let mut lower = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        lower.extend(word.chars().flat_map(char::to_lowercase));
        lower.push(' ');
    }
    let found = WAYS.iter().filter_map(|(way, stage)| lower.find(way).map(|at| (at, *stage)));
    found.min_by_key(|(at, _)| *at).map(|(_, stage)| stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_read_from_the_words_of_each_system() {
        let cases = [
            ("said: 550 no (in reply to\n    RCPT TO command)", Some(Stage::Rcpt)),
            ("SMTP error from remote mail server after MAIL FROM:<a@b.example> SIZE=1:\n 550 no", Some(Stage::Mail)),
            ("SMTP error from remote mail server after end of data:\n 554 no", Some(Stage::Data)),
            ("SMTP error from remote mail server after initial connection:\n 554 no", Some(Stage::Greeting)),
            ("550 no [MAIL_FROM] and later in reply to RCPT TO", Some(Stage::Mail)),
            ("550 no such user", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(stage(text), expected, "{text}");
        }
    }
}
