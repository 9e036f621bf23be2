//! A TCP proxy before a PostgreSQL server that can do what networks do: fall silent, cut connections, and cut one in the
//! middle of a commit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

/// Where a connection is cut around what a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing of it reaches the server.
    Before,
    /// Half of it does.
    Within,
    /// All of it does, and nobody waits for an answer.
    Behind,
    /// The server has answered, and the answer does not come through.
    Answered,
}

#[derive(Default)]
struct Plan {
    /// What the client's bytes must contain, and where to cut then.
    cut: Option<(Vec<String>, Cut)>,
    cuts: u64,
    /// What makes the proxy fall silent when a client sends it.
    silence: Option<Vec<u8>>,
}

fn contains(sent: &[u8], text: &[u8]) -> bool {
    sent.windows(text.len()).any(|window| window == text)
}

/// A running proxy. Ends with the runtime of its test.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    /// Whether bytes pass.
    open: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy before the server that listens on a socket.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            plan: Arc::default(),
            open: watch::channel(true).0,
        };
        let serving = proxy.clone();
        let serve = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxy, socket) = (serving.clone(), socket.clone());
                let connection = async move { proxy.pass(client, socket).await };
                #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
                tokio::spawn(connection);
            }
        };
        #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
        tokio::spawn(serve);
        proxy
    }

    /// Returns the URL of a database behind the proxy.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postlog@{}/{database}?sslmode=disable", self.address)
    }

    /// Lets nothing through any more; nobody is told.
    pub fn fall_silent(&self) {
        self.open.send_replace(false);
    }

    /// Falls silent when a client sends something that contains a text, before it reaches the server.
    pub fn fall_silent_at(&self, text: &str) {
        self.plan.lock().expect("not poisoned").silence = Some(text.as_bytes().to_vec());
    }

    /// Returns whether nothing is let through.
    pub fn is_silent(&self) -> bool {
        !*self.open.borrow()
    }

    /// Lets everything through again, also what was sent meanwhile.
    pub fn speak(&self) {
        self.open.send_replace(true);
    }

    /// Cuts the next connection on which a client sends something that contains all of some texts.
    pub fn cut_once(&self, texts: &[&str], cut: Cut) {
        let texts = texts.iter().map(|&text| text.to_owned()).collect();
        self.plan.lock().expect("not poisoned").cut = Some((texts, cut));
    }

    /// Returns how many such connections were cut.
    pub fn cut_so_far(&self) -> u64 {
        self.plan.lock().expect("not poisoned").cuts
    }

    fn take_cut(&self, sent: &[u8]) -> Option<Cut> {
        let mut plan = self.plan.lock().expect("not poisoned");
        if plan.silence.take_if(|text| contains(sent, text)).is_some() {
            self.fall_silent();
        }
        let (texts, _) = plan.cut.as_ref()?;
        if !texts.iter().all(|text| contains(sent, text.as_bytes())) {
            return None;
        }
        plan.cuts += 1;
        plan.cut.take().map(|(_, cut)| cut)
    }

    async fn pass(&self, client: TcpStream, socket: PathBuf) {
        let mut open = self.open.subscribe();
        let Ok(_) = open.wait_for(|open| *open).await else { return };
        let Ok(server) = UnixStream::connect(socket).await else { return };
        let _ = client.set_nodelay(true);
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        // Said once the answer must not come through.
        let (deaf, mut is_deaf) = watch::channel(false);
        let out = async {
            let mut buffer = vec![0; 256 * 1024];
            let mut open = self.open.subscribe();
            while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                let sent = &buffer[..n];
                let cut = self.take_cut(sent);
                let Ok(_) = open.wait_for(|open| *open).await else { return };
                match cut {
                    None => {
                        if to_server.write_all(sent).await.is_err() {
                            return;
                        }
                    }
                    Some(Cut::Before) => return,
                    Some(Cut::Within) => return drop(to_server.write_all(&sent[..n / 2]).await),
                    Some(Cut::Behind) => return drop(to_server.write_all(sent).await),
                    Some(Cut::Answered) => {
                        deaf.send_replace(true);
                        let _ = to_server.write_all(sent).await;
                        return std::future::pending().await;
                    }
                }
            }
        };
        let back = async {
            let mut buffer = vec![0; 256 * 1024];
            let mut open = self.open.subscribe();
            while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                if *is_deaf.borrow_and_update() {
                    return;
                }
                let Ok(_) = open.wait_for(|open| *open).await else { return };
                if to_client.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = out => {}, () = back => {} }
    }
}
