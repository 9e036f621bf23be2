//! An event stream parser after WHATWG HTML, section 9.2.6, written without looking at what it checks.

/// A dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatched {
    /// The event type.
    pub event_type: String,
    /// The data.
    pub data: String,
    /// The last event id when it was dispatched.
    pub id: String,
}

impl Dispatched {
    /// The data as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    event_type: String,
    data: String,
    id: String,
    /// What a client would present when it reconnects.
    pub last_event_id: String,
    /// The reconnection time, milliseconds.
    pub retry: Option<u64>,
    /// Comments, in order.
    pub comments: Vec<String>,
}

impl Parser {
    /// Takes bytes in any portions.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Dispatched> {
        let mut dispatched = vec![];
        for byte in bytes {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    let line = String::from_utf8(std::mem::take(&mut self.line)).expect("UTF-8");
                    dispatched.extend(self.line(&line));
                }
                _ => {
                    self.after_cr = false;
                    self.line.push(*byte);
                }
            }
        }
        dispatched
    }

    fn line(&mut self, line: &str) -> Option<Dispatched> {
        if line.is_empty() {
            self.last_event_id.clone_from(&self.id);
            let event_type = std::mem::take(&mut self.event_type);
            let mut data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return None;
            }
            data.pop();
            let event_type = if event_type.is_empty() { "message".to_owned() } else { event_type };
            return Some(Dispatched { event_type, data, id: self.id.clone() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments.push(value.to_owned()),
            "event" => self.event_type = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if value.bytes().all(|b| b.is_ascii_digit()) => self.retry = value.parse().ok(),
            _ => {}
        }
        None
    }
}

#[test]
fn the_parser_follows_the_examples_of_the_standard() {
    let mut parser = Parser::default();
    let all =
        parser.feed(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n");
    let data: Vec<_> = all.iter().map(|d| (d.data.as_str(), d.id.as_str())).collect();
    assert_eq!(data, [("first event", "1"), ("second event", ""), (" third event", "")]);
    let all = Parser::default().feed(b"data\n\ndata\ndata\n\ndata:");
    assert_eq!(all.iter().map(|d| d.data.as_str()).collect::<Vec<_>>(), ["", "\n"]);
    let mut cut = Parser::default();
    assert!(cut.feed(b"event: x\r\ndata: 1\r\nid: 7\r\n").is_empty());
    assert_eq!(cut.last_event_id, "", "an event that was not dispatched leaves no id");
}
