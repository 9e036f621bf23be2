//! A few lines of SMTP, written here so that stories do not depend on the code they test.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Sends one mail; returns the answer to the final dot, or the first answer that is not 2xx or 3xx.
pub async fn send(server: &str, from: &str, to: &[&str], subject: &str, body: &str) -> Result<String, String> {
    let id: u64 = rand_id();
    let content = format!(
        "From: <{from}>\r\nTo: <{}>\r\nSubject: {subject}\r\nDate: Fri, 20 Nov 2026 12:00:00 +0000\r\n\
         Message-ID: <{id:x}@example.com>\r\n\r\n{body}\r\n",
        to[0]
    );
    send_raw(server, from, to, &content).await
}

fn rand_id() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Sends raw content, which must end with CRLF and hold no line that begins with a dot.
pub async fn send_raw(server: &str, from: &str, to: &[&str], content: &str) -> Result<String, String> {
    let mut session = Session::open(server).await?;
    session.command(&format!("MAIL FROM:<{from}>")).await?;
    for to in to {
        session.command(&format!("RCPT TO:<{to}>")).await?;
    }
    session.command("DATA").await?;
    session.write(&format!("{content}.\r\n")).await?;
    let answer = session.answer().await?;
    let _ = session.write("QUIT\r\n").await;
    Ok(answer)
}

/// A connection, step by step.
pub struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    /// Connects and reads the greeting.
    pub async fn connect(server: &str) -> Result<Self, String> {
        let stream = BufReader::new(TcpStream::connect(server).await.map_err(|e| e.to_string())?);
        let mut session = Self { stream };
        session.answer().await?;
        Ok(session)
    }

    /// Connects and says hello.
    pub async fn open(server: &str) -> Result<Self, String> {
        let mut session = Self::connect(server).await?;
        session.command("EHLO client.example.com").await?;
        Ok(session)
    }

    /// Names the sender and one recipient.
    pub async fn envelope(&mut self, from: &str, to: &str) -> Result<(), String> {
        self.command(&format!("MAIL FROM:<{from}>")).await?;
        self.command(&format!("RCPT TO:<{to}>")).await.map(drop)
    }

    /// Sends a line and returns its answer, which must be 2xx or 3xx.
    pub async fn command(&mut self, line: &str) -> Result<String, String> {
        self.write(&format!("{line}\r\n")).await?;
        self.answer().await
    }

    /// Sends text as it is.
    pub async fn write(&mut self, text: &str) -> Result<(), String> {
        self.stream.write_all(text.as_bytes()).await.map_err(|e| e.to_string())
    }

    /// Reads an answer, which must be 2xx or 3xx.
    pub async fn answer(&mut self) -> Result<String, String> {
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err(format!("the connection ended after {answer:?}"));
            }
            answer.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return if line.starts_with(['2', '3']) { Ok(answer) } else { Err(answer) };
            }
        }
    }
}
