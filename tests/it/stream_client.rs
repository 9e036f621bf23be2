//! A reader of event streams, written from the WHATWG specification and not from the code it tests.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, PATIENCE};

/// One dispatched event.
#[derive(Debug, Clone)]
pub struct Event {
    /// The `id:` field.
    pub id: String,
    /// The `event:` field.
    pub event_type: String,
    /// The `data:` field as JSON.
    pub data: Value,
}

/// An open stream. Dropping it cuts the connection.
pub struct Stream {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Stream {
    /// Opens a stream, after an event if one is given.
    pub async fn open(client: &Client, path: &str, last_event_id: Option<&str>) -> Self {
        Self::try_open(client, path, last_event_id).await.expect("the stream opens")
    }

    /// The same with a server that may be gone.
    pub async fn try_open(client: &Client, path: &str, last_event_id: Option<&str>) -> Option<Self> {
        let mut request = client.request(reqwest::Method::GET, path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.ok()?;
        assert_eq!(response.status().as_u16(), 200, "{:?}", response.text().await);
        Some(Self { response, buffer: vec![] })
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> Event {
        self.next_within(PATIENCE).await.expect("an event in time")
    }

    /// Waits for the next event, at most so long; `None` also at the end of the stream.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Event> {
        tokio::time::timeout(patience, self.read()).await.ok().flatten()
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8(block).expect("UTF-8")) {
                    return Some(event);
                }
                continue;
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.ok()??);
        }
    }
}

fn parse(block: &str) -> Option<Event> {
    let (mut id, mut event_type, mut data) = (String::new(), String::new(), vec![]);
    for line in block.lines().filter(|l| !l.starts_with(':')) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = value.to_owned(),
            "event" => event_type = value.to_owned(),
            "data" => data.push(value.to_owned()),
            _ => {}
        }
    }
    let data = serde_json::from_str(&data.join("\n")).ok()?;
    Some(Event { id, event_type, data })
}
