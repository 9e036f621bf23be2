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
    let mut stream = BufReader::new(TcpStream::connect(server).await.map_err(|e| e.to_string())?);
    expect(&mut stream).await?;
    let recipients = to.iter().map(|to| format!("RCPT TO:<{to}>"));
    let commands = ["EHLO client.example.com".to_owned(), format!("MAIL FROM:<{from}>")];
    for line in commands.into_iter().chain(recipients).chain(["DATA".to_owned()]) {
        stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(|e| e.to_string())?;
        expect(&mut stream).await?;
    }
    stream.write_all(format!("{content}.\r\n").as_bytes()).await.map_err(|e| e.to_string())?;
    let answer = expect(&mut stream).await?;
    let _ = stream.write_all(b"QUIT\r\n").await;
    Ok(answer)
}

async fn expect(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    let mut answer = String::new();
    loop {
        let mut line = String::new();
        let read = stream.read_line(&mut line).await.map_err(|e| e.to_string())?;
        if read == 0 {
            return Err(format!("the connection ended after {answer:?}"));
        }
        answer.push_str(&line);
        if line.as_bytes().get(3) != Some(&b'-') {
            return if line.starts_with(['2', '3']) { Ok(answer) } else { Err(answer) };
        }
    }
}
