//! What was said on a connection, for the team whose account it is: no content, no passwords.

use super::reply::on_one_line;

const OCTETS_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(super) struct Transcript {
    text: String,
    cut: bool,
}

impl Transcript {
    pub(super) fn said(&mut self, line: &str) {
        self.add("C: ", line);
    }

    pub(super) fn heard(&mut self, code: u16, enhanced: Option<&str>, text: &str) {
        for line in text.split('\n') {
            let enhanced = enhanced.map(|enhanced| format!("{enhanced} ")).unwrap_or_default();
            self.add("S: ", &format!("{code} {enhanced}{line}"));
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.add("-- ", text);
    }

    fn add(&mut self, who: &str, line: &str) {
        if self.text.len() + line.len() > OCTETS_MAX {
            if !std::mem::replace(&mut self.cut, true) {
                self.text.push_str("-- cut\n");
            }
            return;
        }
        self.text.push_str(who);
        self.text.extend(on_one_line(line));
        self.text.push('\n');
    }

    pub(super) fn take(&mut self) -> String {
        self.cut = false;
        std::mem::take(&mut self.text)
    }
}
