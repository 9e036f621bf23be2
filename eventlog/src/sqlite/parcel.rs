//! Records that come out of the database together, as one text.
//!
//! Each is its numbers and the lengths in bytes of its texts (`-` for none), separated by commas and ended by a
//! semicolon; then the texts, one behind the other, what is binary in hex. See [`super::read::READ_PARCELS`], which makes them.

use domain::id::TeamId;

use crate::backend::StoreError;
use crate::record::{StoredPersonal, StoredRecord};

/// Appends the records of a parcel.
pub(super) fn unpack(team: &TeamId, parcel: &str, records: &mut Vec<StoredRecord>) -> Result<(), StoreError> {
    let mut rest = parcel;
    while !rest.is_empty() {
        let (record, behind) = first(team, rest).ok_or_else(|| {
            let position = rest.split(',').next().unwrap_or_default();
            StoreError::Corrupt(format!("record {position} of {team} is not one that was ever written"))
        })?;
        records.push(record);
        rest = behind;
    }
    Ok(())
}

fn first<'a>(team: &TeamId, parcel: &'a str) -> Option<(StoredRecord, &'a str)> {
    let (head, mut rest) = parcel.split_once(';')?;
    let mut head = head.split(',');
    let mut number = || head.next()?.parse::<i64>().ok();
    let (position, epoch) = (unsigned(number()?)?, u16::try_from(number()?).ok()?);
    let (stream_version, version, at) = (unsigned(number()?)?, number()?, number()?);
    let mut text = || -> Option<Option<&'a str>> {
        Some(match head.next()? {
            "-" => None,
            length => {
                let (text, behind) = rest.split_at_checked(length.parse().ok()?)?;
                rest = behind;
                Some(text)
            }
        })
    };
    let (stream, name, facts) = (text()??, text()??, text()??);
    let digest = text()?;
    let (actor, causation, correlation) = (text()??, text()?, text()??);
    let (hash, salt, json) = (text()??, text()?, text()?);
    let personal = match salt {
        Some(salt) => Some(StoredPersonal { salt: bytes(salt)?, json: json?.to_owned() }),
        None => None,
    };
    let personal_digest = match digest {
        Some(digest) => Some(bytes(digest)?),
        None => None,
    };
    let record = StoredRecord {
        team: team.clone(),
        position,
        epoch,
        stream: stream.to_owned(),
        stream_version,
        name: name.to_owned(),
        version,
        facts: facts.to_owned(),
        personal_digest,
        personal,
        actor: actor.to_owned(),
        causation: causation.map(str::to_owned),
        correlation: correlation.to_owned(),
        at,
        hash: bytes(hash)?,
    };
    Some((record, rest))
}

fn unsigned(n: i64) -> Option<u64> {
    u64::try_from(n).ok()
}

/// Returns the bytes behind hex digits; `None` if there are more, fewer or others.
fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_record_is_corrupt_and_no_panic() {
        let team = TeamId::new(1, [1; 9]);
        let sound = format!("1,1,1,1,7,1,1,2,-,1,-,1,64,-,-;sn{{}}ac{}", "0F".repeat(32));
        let mut records = vec![];
        unpack(&team, &sound.repeat(2), &mut records).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[1].facts.as_str(), records[1].hash), ("{}", [15; 32]));
        for wrong in [
            sound[..sound.len() - 1].to_owned(),
            format!("{sound}x"),
            sound.replace("64", "63"),
            sound.replace("0F", "0g"),
            sound.replacen("1,1", "-1,1", 1),
            sound.replacen("1,1", "1,70000", 1),
            sound.replacen("7,1,1", "7,-,1", 1),
            sound.replacen('s', "é", 1),
        ] {
            assert!(matches!(unpack(&team, &wrong, &mut vec![]), Err(StoreError::Corrupt(_))), "{wrong}");
        }
    }
}
