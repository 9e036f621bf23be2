//! An SMTP server on loopback that does what a test says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A mail as it came.
#[derive(Debug, Clone)]
pub struct Taken {
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: String,
}

/// What is answered to the end of a mail.
#[derive(Debug, Clone)]
pub enum End {
    Say(&'static str),
    /// Closes without a word, or waits for ever.
    Drop,
    Hang,
}

/// What the server does.
#[derive(Debug, Clone)]
pub struct Manner {
    pub greeting: &'static str,
    pub hello: &'static str,
    pub auth: &'static str,
    pub mail: &'static str,
    pub data: &'static str,
    /// Says nothing more once it hears this verb.
    pub silent_at: Option<&'static str>,
    /// Recipients that contain the text are answered with the reply.
    pub rcpt: Vec<(&'static str, &'static str)>,
    pub end: End,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            greeting: "220 server ESMTP",
            hello: "250-server\r\n250-AUTH PLAIN LOGIN\r\n250-8BITMIME\r\n250 PIPELINING",
            auth: "235 2.7.0 ok",
            mail: "250 2.1.0 ok",
            data: "354 go on",
            silent_at: None,
            rcpt: vec![],
            end: End::Say("250 2.0.0 queued as 17"),
        }
    }
}

pub struct Server {
    pub port: u16,
    pub manner: Arc<Mutex<Manner>>,
    pub taken: Arc<Mutex<Vec<Taken>>>,
    pub connections: Arc<Mutex<u32>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (manner, taken) = (Arc::new(Mutex::new(manner)), Arc::new(Mutex::new(vec![])));
        let connections = Arc::new(Mutex::new(0));
        let (m, t, c) = (Arc::clone(&manner), Arc::clone(&taken), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                *c.lock().unwrap() += 1;
                tokio::spawn(serve(socket, Arc::clone(&m), Arc::clone(&t)));
            }
        });
        Self { port, manner, taken, connections, task }
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn count(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

async fn serve(socket: tokio::net::TcpStream, manner: Arc<Mutex<Manner>>, taken: Arc<Mutex<Vec<Taken>>>) {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut sender, mut recipients) = (String::new(), vec![]);
    let first = manner.lock().unwrap().clone();
    if first.silent_at == Some("GREETING") {
        std::future::pending::<()>().await;
    }
    let _ = write.write_all(format!("{}\r\n", first.greeting).as_bytes()).await;
    while let Ok(Some(line)) = lines.next_line().await {
        let word = line.split(' ').next().unwrap().to_ascii_uppercase();
        let now = manner.lock().unwrap().clone();
        if now.silent_at == Some(word.as_str()) {
            std::future::pending::<()>().await;
        }
        let reply = match word.as_str() {
            "EHLO" => now.hello,
            "AUTH" => now.auth,
            "RCPT" => {
                let refused = now.rcpt.iter().find(|(text, _)| line.contains(text));
                if refused.is_none() {
                    recipients.push(line[9..].split('>').next().unwrap_or_default().to_owned());
                }
                refused.map_or("250 2.1.5 ok", |(_, reply)| *reply)
            }
            "DATA" if recipients.is_empty() => "554 5.5.1 no valid recipients",
            "DATA" if !now.data.starts_with("354") => now.data,
            "DATA" => {
                let _ = write.write_all(b"354 go on\r\n").await;
                let mut content = String::new();
                loop {
                    let Ok(Some(line)) = lines.next_line().await else { return };
                    if line == "." {
                        break;
                    }
                    content.push_str(line.strip_prefix('.').unwrap_or(&line));
                    content.push_str("\r\n");
                }
                let mail = Taken { sender: sender.clone(), recipients: std::mem::take(&mut recipients), content };
                // Whoever refuses a mail at its end does not have it.
                if !matches!(now.end, End::Say(reply) if matches!(reply.as_bytes()[0], b'4' | b'5')) {
                    taken.lock().unwrap().push(mail);
                }
                match now.end {
                    End::Say(reply) => reply,
                    End::Drop => return,
                    End::Hang => std::future::pending().await,
                }
            }
            "QUIT" => "221 bye",
            "MAIL" => {
                recipients.clear();
                let path = line.split(['<', '>']).nth(1).unwrap_or_default();
                sender = if now.mail.starts_with('2') { path.to_owned() } else { String::new() };
                now.mail
            }
            "RSET" => {
                recipients.clear();
                "250 ok"
            }
            _ => "500 what?",
        };
        let reply = if word == "RCPT" && !now.mail.starts_with('2') { "503 5.5.1 sender first" } else { reply };
        if !now.mail.starts_with('2') {
            recipients.clear();
        }
        if write.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() || reply.starts_with("421") {
            return;
        }
    }
}
