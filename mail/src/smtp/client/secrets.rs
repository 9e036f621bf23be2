//! What a host is told in confidence and may repeat in a reply: it is left out of whatever is quoted of that.

use data_encoding::BASE64;

use super::Login;
use super::reply::on_one_line;

/// Shorter ones are words that replies have anyway: to leave them out would show them.
const OCTETS_MIN: usize = 6;

/// The password of a connection, in each form in which it goes over the wire. A host that repeats it may leave out the padding.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    pub(super) fn of(login: Option<&Login>) -> Self {
        let Some(login) = login.filter(|login| !login.password.is_empty()) else { return Self::default() };
        let shown = on_one_line(&login.password).collect();
        let encoded = [plain(login), BASE64.encode(login.password.as_bytes())];
        let mut forms: Vec<String> = encoded.map(|form| form.trim_end_matches('=').to_owned()).into();
        forms.push(shown);
        forms.retain(|form| form.len() >= OCTETS_MIN);
        Self(forms)
    }

    /// Returns a text with a dash in the place of each.
    pub(super) fn left_out_of(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, form| text.replace(form, "—"))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// The message of PLAIN (RFC 4616 §2). A NUL in a name or password would end it early: no such login exists.
pub(super) fn plain(login: &Login) -> String {
    let clean = |text: &str| text.replace('\0', "");
    BASE64.encode(format!("\0{}\0{}", clean(&login.username), clean(&login.password)).as_bytes())
}
