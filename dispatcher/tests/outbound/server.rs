//! An SMTP server on loopback that does what a test says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A mail as it came.
#[derive(Debug, Clone)]
pub struct Taken {
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
    pub auth: &'static str,
    /// Recipients that contain the text are answered with the reply.
    pub rcpt: Vec<(&'static str, &'static str)>,
    pub end: End,
}

impl Default for Manner {
    fn default() -> Self {
        Self { auth: "235 2.7.0 ok", rcpt: vec![], end: End::Say("250 2.0.0 queued as 17") }
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
    let mut recipients = vec![];
    let _ = write.write_all(b"220 server ESMTP\r\n").await;
    while let Ok(Some(line)) = lines.next_line().await {
        let word = line.split(' ').next().unwrap().to_ascii_uppercase();
        let now = manner.lock().unwrap().clone();
        let reply = match word.as_str() {
            "EHLO" => "250-server\r\n250-AUTH PLAIN LOGIN\r\n250-8BITMIME\r\n250 PIPELINING",
            "AUTH" => now.auth,
            "RCPT" => {
                let refused = now.rcpt.iter().find(|(text, _)| line.contains(text));
                if refused.is_none() {
                    recipients.push(line[9..].trim_end_matches('>').to_owned());
                }
                refused.map_or("250 2.1.5 ok", |(_, reply)| *reply)
            }
            "DATA" if recipients.is_empty() => "554 5.5.1 no valid recipients",
            "DATA" => {
                let _ = write.write_all(b"354 go on\r\n").await;
                let mut content = String::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line == "." {
                        break;
                    }
                    content.push_str(&line);
                    content.push('\n');
                }
                taken.lock().unwrap().push(Taken { recipients: std::mem::take(&mut recipients), content });
                match now.end {
                    End::Say(reply) => reply,
                    End::Drop => return,
                    End::Hang => std::future::pending().await,
                }
            }
            "QUIT" => "221 bye",
            "RSET" | "MAIL" => {
                recipients.clear();
                "250 ok"
            }
            _ => "500 what?",
        };
        if write.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
