//! DATA and BDAT: the message itself.

use super::super::ChunkDecoder;
use super::super::content::{Content, LineEnds};
use super::super::data::DataDecoder;
use super::super::reply::Reply;
use super::super::trace::count_header;
use super::super::transaction::{BodyType, Transaction};
use super::dispatch::too_large;
use super::{Action, Envelope, Phase, Question, Session};

impl Session {
    pub(super) fn data(&mut self) {
        let Some(envelope) = &self.envelope else {
            return self.bad_sequence("say MAIL first");
        };
        if envelope.chunks.is_some() || envelope.chunk_failed {
            self.bad_sequence("the message has begun with BDAT");
        } else if envelope.parameters.body == Some(BodyType::BinaryMime) {
            self.bad_sequence("BINARYMIME needs BDAT");
        } else if envelope.recipients.is_empty() && envelope.rcpt_seen {
            self.error(Reply::new(554, 5, 1, "no valid recipients"));
        } else if envelope.recipients.is_empty() {
            self.bad_sequence("say RCPT first");
        } else {
            let content = self.new_content(envelope);
            self.begin_content(Phase::Data(Box::new((DataDecoder::new(), content))));
            self.reply(&Reply::plain(354, "end the message with <CRLF>.<CRLF>"));
        }
    }

    fn new_content(&self, envelope: &Envelope) -> Content {
        let binary = envelope.parameters.body == Some(BodyType::BinaryMime);
        let line_ends = if binary { LineEnds::Keep } else { self.config.line_ends };
        Content::new(self.config.limits.message_octets_max, line_ends)
    }

    pub(super) fn bdat(&mut self, octets: u64, last: bool) {
        let collected = self.envelope.as_ref().and_then(|envelope| envelope.chunks.as_ref());
        let total = collected.map_or(0, |chunks| chunks.1.octets()).saturating_add(octets);
        if total > self.octets_endured() {
            // Skipping that much costs more than the connection is worth.
            self.disconnect(Reply::new(421, 3, 4, "message too large"));
            return;
        }
        let esmtp = self.esmtp();
        let content = self.envelope.as_ref().map(|envelope| self.new_content(envelope));
        let mut kept = false;
        if let (Some(envelope), Some(content)) = (&mut self.envelope, content) {
            kept = esmtp && !envelope.recipients.is_empty() && !envelope.chunk_failed;
            if kept {
                envelope.chunks.get_or_insert_with(|| Box::new((ChunkDecoder::new(), content)));
            }
        }
        if kept && octets == 0 && !last {
            // A chunk of nothing brings no mail nearer.
            return self.idle_command(&chunk_ok());
        }
        self.begin_content(Phase::Chunk { left: octets, last, kept });
        if octets == 0 {
            self.end_chunk(last, kept);
        }
    }

    fn begin_content(&mut self, phase: Phase) {
        self.phase = phase;
        self.content_since = self.now;
        self.content_octets = 0;
    }

    /// Processes content that waits in the inbox. Returns whether there was any.
    pub(super) fn advance_content(&mut self) -> bool {
        if self.inbox.is_empty() {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.process(|input| self.take_content(input));
        if !matches!(self.phase, Phase::Closing) {
            self.inbox = inbox;
        }
        true
    }

    /// Takes the octets at the start of `input` that are content. Returns how many they are; none where no
    /// content is expected.
    pub(super) fn take_content(&mut self, input: &[u8]) -> usize {
        let endured = self.octets_endured();
        let taken = match &mut self.phase {
            Phase::Data(data) => {
                let (decoder, content) = &mut **data;
                let end = decoder.feed(input, content);
                let excessive = content.octets() > endured;
                if excessive {
                    self.disconnect(Reply::new(421, 3, 4, "message far too large"));
                } else if end.is_some() {
                    self.end_data();
                }
                end.unwrap_or(input.len())
            }
            Phase::Chunk { left, last, kept } => {
                let (last, kept) = (*last, *kept);
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= taken as u64;
                let done = *left == 0;
                if let Some(chunks) = self.envelope.as_mut().and_then(|e| e.chunks.as_mut()).filter(|_| kept) {
                    let (decoder, content) = &mut **chunks;
                    decoder.feed(&input[..taken], content);
                }
                if done {
                    self.end_chunk(last, kept);
                }
                taken
            }
            _ => return 0,
        };
        self.content_octets += taken as u64;
        self.waiting_since = self.now;
        taken
    }

    /// This much content is read and dropped before the connection is given up.
    fn octets_endured(&self) -> u64 {
        self.config.limits.message_octets_max.saturating_mul(2)
    }

    fn end_data(&mut self) {
        if let Phase::Data(data) = std::mem::replace(&mut self.phase, Phase::Command) {
            self.end_message(data.1);
        }
    }

    /// Answers a chunk whose octets have all arrived.
    fn end_chunk(&mut self, last: bool, kept: bool) {
        self.phase = Phase::Command;
        let Some(envelope) = self.envelope.as_mut().filter(|_| kept) else {
            return self.bad_sequence("no message to add this chunk to");
        };
        let Some(chunks) = envelope.chunks.as_mut() else {
            return;
        };
        let too_large_already = chunks.1.is_too_large();
        if last {
            if let Some(mut chunks) = envelope.chunks.take() {
                chunks.0.finish(&mut chunks.1);
                self.end_message(chunks.1);
            }
        } else if too_large_already {
            envelope.chunks = None;
            envelope.chunk_failed = true;
            self.reply(&too_large());
        } else {
            self.reply(&chunk_ok());
        }
    }

    /// Judges a whole message by itself, then puts it before the driver.
    fn end_message(&mut self, content: Content) {
        let (Some(envelope), Some(helo)) = (self.envelope.take(), &self.helo) else {
            return;
        };
        let limits = &self.config.limits;
        if content.is_too_large() {
            return self.reply(&too_large());
        }
        if content.has_refused_line_end() {
            return self.reply(&Reply::new(550, 6, 0, "bare CR or LF in the message"));
        }
        let data = content.into_bytes();
        let header = count_header(&data);
        if header.octets > limits.header_octets_max || header.fields > limits.header_fields_max {
            return self.reply(&Reply::new(552, 3, 4, "header too large"));
        }
        if header.received > limits.received_fields_max {
            return self.reply(&Reply::new(554, 4, 6, "too many hops, this looks like a loop"));
        }
        let transaction = Transaction {
            peer: self.peer.clone(),
            helo: helo.name.clone(),
            esmtp: helo.esmtp,
            tls: self.tls.clone(),
            authenticated: self.authenticated.clone(),
            reverse_path: envelope.reverse_path,
            parameters: envelope.parameters,
            recipients: envelope.recipients,
            data,
            started_at: envelope.started_at,
            received_at: self.now,
        };
        self.ask(Question::Delivery, Action::Deliver(Box::new(transaction)));
    }
}

fn chunk_ok() -> Reply {
    Reply::new(250, 0, 0, "chunk ok")
}
