//! Uploads come back as written, to their own team and until they expire: on SQLite and PostgreSQL.

use eventlog::testing::Cluster;

use super::*;
use crate::tests::world::memory_log;

const NOW: i64 = 1_700_000_000_000_000;
const HOUR: i64 = 3_600_000_000;
const ROOM: Room = Room { files_max: 3, bytes_max: 1_000 };

async fn works() -> [Work; 2] {
    let cluster = Cluster::shared();
    let database = cluster.create_database(None).await;
    [Work::memory(&[]).await.unwrap(), Work::open_postgres(&cluster.url(&database), &[]).await.unwrap()]
}

fn team(n: u8) -> TeamId {
    TeamId::new(NOW, [n; 9])
}

fn blob(n: u8) -> BlobId {
    BlobId::new(NOW, [n; 9])
}

fn announced(n: u8, size_bytes: u64) -> Row {
    Row {
        upload: UploadId::new(NOW, [n; 9]),
        file: format!("att_{n:024}"),
        mailbox: n.is_multiple_of(2).then(|| MailboxId::new(NOW, [n; 9])),
        filename: "größer \"als\" \\ nötig \u{1F4E6}.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        size_bytes,
        sha256: n.is_multiple_of(2).then(|| format!("{n:064x}")),
        blob: None,
        expires_at: NOW + HOUR,
    }
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_written_until_it_expires() {
    for work in works().await {
        for n in [1, 2] {
            let row = announced(n, 10);
            assert!(add(&work, &team(1), &row, ROOM, NOW).await.unwrap());
            assert_eq!(of_upload(&work, &team(1), &row.upload, NOW).await.unwrap(), Some(row.clone()));
            assert_eq!(of_upload(&work, &team(2), &row.upload, NOW).await.unwrap(), None, "another team's");
            assert_eq!(of_upload(&work, &team(1), &row.upload, NOW + HOUR).await.unwrap(), None, "expired");
            assert_eq!(of_file(&work, &team(1), &row.file, NOW).await.unwrap(), None, "its bytes have not come");
            let (came, digest) = (blob(n), format!("{n:064x}"));
            let done = (&came, digest.as_str());
            assert!(complete(&work, &team(1), &row.upload, done, NOW + 2 * HOUR).await.unwrap());
            assert!(!complete(&work, &team(1), &row.upload, done, NOW + 9 * HOUR).await.unwrap(), "only once");
            let expected = Row { blob: Some(came), sha256: Some(digest), expires_at: NOW + 2 * HOUR, ..row.clone() };
            assert_eq!(of_file(&work, &team(1), &row.file, NOW + HOUR).await.unwrap(), Some(expected));
            assert_eq!(of_file(&work, &team(2), &row.file, NOW).await.unwrap(), None);
            remove(&work, &team(1), &row.upload).await.unwrap();
            assert_eq!(of_upload(&work, &team(1), &row.upload, NOW).await.unwrap(), None);
        }
        work.close().await;
    }
}

#[tokio::test]
async fn a_team_has_room_for_so_many_files_and_bytes() {
    for work in works().await {
        let mut taken = vec![];
        for (n, size) in [(1, 400), (2, 601), (3, 600), (4, 1), (5, 0), (6, 0)] {
            taken.push(add(&work, &team(1), &announced(n, size), ROOM, NOW).await.unwrap());
        }
        assert_eq!(taken, [true, false, true, false, true, false], "bytes, bytes, files");
        assert!(add(&work, &team(2), &announced(7, 1_000), ROOM, NOW).await.unwrap(), "another team has its own room");
        assert!(add(&work, &team(1), &announced(8, 1_000), ROOM, NOW + HOUR).await.unwrap(), "what expired is gone");
        work.close().await;
    }
}

#[tokio::test]
async fn files_added_at_the_same_moment_do_not_exceed_the_room() {
    for work in works().await {
        for round in 0..10 {
            let rows: Vec<Row> = (0..16).map(|n| announced(n, 300)).collect();
            let team = team(round);
            let adding = rows.iter().map(|row| add(&work, &team, row, Room { files_max: 9, ..ROOM }, NOW));
            let added = futures_util::future::join_all(adding).await;
            let count = added.into_iter().filter(|added| *added.as_ref().unwrap()).count();
            assert_eq!(count, 3, "three of 300 bytes fit into 1,000, round {round}");
        }
        work.close().await;
    }
}

#[tokio::test]
async fn expired_files_are_dropped_with_their_bytes() {
    let log = memory_log().await;
    for work in works().await {
        for n in [1, 2] {
            log.put_loose(&team(n), &blob(n), vec![n; 10].into()).await.unwrap();
            let row = Row { blob: Some(blob(n)), expires_at: NOW + i64::from(n) * HOUR, ..announced(n, 10) };
            assert!(add(&work, &team(n), &row, ROOM, NOW).await.unwrap());
        }
        assert_eq!(drop_expired(&work, &log, NOW, 10).await.unwrap(), 0);
        assert_eq!(drop_expired(&work, &log, NOW + HOUR, 10).await.unwrap(), 1);
        assert_eq!(log.loose(&team(1), &blob(1)).await.unwrap(), None);
        assert!(log.loose(&team(2), &blob(2)).await.unwrap().is_some());
        assert_eq!(drop_expired(&work, &log, NOW + 9 * HOUR, 10).await.unwrap(), 1);
        assert_eq!(drop_expired(&work, &log, NOW + 9 * HOUR, 10).await.unwrap(), 0);
        work.close().await;
    }
}
