//! A private S3 server (moto) with one bucket, for tests.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A running S3 server. Killed when dropped.
#[derive(Debug)]
pub struct S3 {
    child: Child,
    address: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl S3 {
    /// The bucket that is there.
    pub const BUCKET: &'static str = "bodies";

    /// Starts a server. One that asks for credentials knows nobody's.
    ///
    /// # Panics
    /// The server is not installed or does not start.
    pub async fn start(asks_for_credentials: bool) -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/judges/bin/python");
        assert!(python.exists(), "the S3 server is not installed: run `tests/run` once, it installs it");
        let mut command = Command::new(python);
        command.args(["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]);
        if asks_for_credentials {
            // The one request without makes the bucket.
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", "1");
        }
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the server's program starts");
        let stderr = child.stderr.take().expect("standard error is piped");
        // It says there where it listens, and goes on talking.
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("http://").map(|(_, rest)| rest.trim().to_owned()));
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { child, address: address.expect("the server says where it listens") };
        let made = server.request("PUT", &format!("/{}", Self::BUCKET)).await;
        assert!(made.contains("200"), "the bucket was not made: {made}");
        server
    }

    async fn request(&self, method: &str, path: &str) -> String {
        let exchange = async {
            let mut socket = tokio::net::TcpStream::connect(&self.address).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                self.address
            );
            socket.write_all(head.as_bytes()).await?;
            let mut answer = vec![];
            socket.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = exchange.await.expect("the server answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns how many objects there are.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn objects(&self) -> usize {
        self.request("GET", &format!("/{}?list-type=2", Self::BUCKET)).await.matches("<Key>").count()
    }

    /// Returns the environment variables by which a client finds it.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIAPOSTLOGPOSTLOG00".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }
}
