//! A client that hands mails over, and repeats under the same key whatever is not acknowledged.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use turmoil::net::TcpStream;

use crate::ground::Ground;
use crate::node::DOOR;
use crate::numbers::Numbers;
use crate::plan::NODES;

/// How many mails each writer hands over.
pub const MAILS: u64 = 12;
/// How long a writer waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hands over this writer's mails.
pub async fn run(ground: Ground, number: u64) -> turmoil::Result {
    let mut numbers = Numbers::new(ground.seed, 100 + number);
    for mail in 0..MAILS {
        tokio::time::sleep(numbers.millis(0, 1_800)).await;
        let key = format!("w{number}-{mail}");
        let mailbox = numbers.below(2);
        loop {
            let node = NODES[usize::try_from(numbers.below(2)).unwrap_or(0)];
            // Some give up before the answer can be there: what they asked for is done all the same.
            let patience = if numbers.once_in(5) { numbers.millis(20, 150) } else { PATIENCE };
            let answer = tokio::time::timeout(patience, hand_over(node, &key, mailbox)).await;
            if let Ok(Ok(Some(position))) = answer {
                ground.notes.add(|| format!("writer {number}: {key} is at {position}"));
                ground.tally.sheet().acknowledged.insert(key, (position, crate::line::now()));
                break;
            }
            ground.tally.sheet().repetitions += 1;
            tokio::time::sleep(numbers.millis(50, 500)).await;
        }
    }
    ground.tally.sheet().writers_left -= 1;
    Ok(())
}

/// Returns the position a mail was given; `None` if the node could not say.
async fn hand_over(node: &str, key: &str, mailbox: u64) -> io::Result<Option<u64>> {
    let mut tcp = BufReader::new(TcpStream::connect((node, DOOR)).await?);
    tcp.get_mut().write_all(format!("{key} {mailbox}\n").as_bytes()).await?;
    let mut line = String::new();
    tcp.read_line(&mut line).await?;
    Ok(line.trim_end().strip_prefix("ok ").and_then(|position| position.parse().ok()))
}
