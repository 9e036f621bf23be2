//! Scenarios of messages.

use super::*;
use crate::testing::{given, mailbox_id, message_id, opened, received, received_halves, team_created};

fn history() -> Vec<crate::Event> {
    let mut history = team_created();
    history.extend([opened(1), opened(2), received(1)]);
    history
}

fn keywords() -> ChangeKeywords {
    ChangeKeywords {
        message: message_id(1),
        mailbox: mailbox_id(1),
        add: BTreeSet::new(),
        remove: BTreeSet::new(),
        if_version: None,
    }
}

fn to(folder: Folder) -> ChangeMessage {
    ChangeMessage { keywords: keywords(), folder: Some(folder) }
}

fn delete(mode: Deletion) -> DeleteMessage {
    DeleteMessage { message: message_id(1), mailbox: mailbox_id(1), mode, if_version: None }
}

fn receive(used_bytes: i64) -> ReceiveWithinQuota {
    let (facts, personal) = received_halves(2, &mailbox_id(1));
    ReceiveWithinQuota { receive: ReceiveMessage { facts, personal, mail_from: None }, used_bytes }
}

#[test]
fn a_message_is_moved_and_marked_by_one_wish() {
    let wish = ChangeMessage {
        keywords: ChangeKeywords { add: ["$seen".to_owned()].into(), ..keywords() },
        folder: Some(Folder::Archive),
    };
    let names: Vec<_> = given(history()).when(wish).then_events().iter().map(|e| e.name().to_owned()).collect();
    assert_eq!(names, ["message.keywords_changed", "message.moved"]);
}

#[test]
fn a_message_in_the_trash_is_restored_by_moving_it_out() {
    let mut trashed = history();
    trashed.extend(given(history()).when(delete(Deletion::ToTrash)).then_events());
    given(trashed.clone()).when(delete(Deletion::ToTrash)).then_nothing();
    let restored = given(trashed).when(to(Folder::Inbox)).then_events();
    assert!(matches!(&restored[..], [crate::Event::Message(Event::Moved(e))] if e.folder == Folder::Inbox));
}

#[test]
fn a_message_is_not_moved_to_where_it_is() {
    given(history()).when(to(Folder::Inbox)).then_nothing();
}

#[test]
fn a_destroyed_message_is_never_restored() {
    let mut gone = history();
    gone.extend(given(history()).when(delete(Deletion::Permanent)).then_events_each_time());
    given(gone).when(to(Folder::Inbox)).then_rejected(&Rejected::Unknown);
}

#[test]
fn a_message_of_another_mailbox_is_not_there() {
    given(history())
        .when(ChangeMessage {
            keywords: ChangeKeywords { mailbox: mailbox_id(2), ..keywords() },
            folder: Some(Folder::Archive),
        })
        .then_rejected(&Rejected::Unknown);
}

#[test]
fn a_change_of_what_was_not_read_is_refused() {
    given(history())
        .when(ChangeMessage {
            keywords: ChangeKeywords { if_version: Some(7), ..keywords() },
            folder: Some(Folder::Archive),
        })
        .then_rejected(&Rejected::VersionMismatch { current: 1 });
}

#[test]
fn a_mail_that_fits_exactly_is_taken_and_one_byte_more_is_not() {
    let size = receive(0).receive.facts.size_bytes;
    given(history()).when(receive((1 << 30) - size)).then_events();
    given(history()).when(receive((1 << 30) - size + 1)).then_rejected(&Rejected::OverQuota);
}

#[test]
fn a_mail_handed_over_again_is_recorded_and_changes_nothing() {
    let wish = RecordDuplicate { message: message_id(1), mailbox: mailbox_id(1) };
    let events = given(history()).when(wish).then_events_each_time();
    assert_eq!(events[0].name(), "message.duplicate_received");
    let mut before = Message::default();
    history().iter().for_each(|e| before.evolve(e));
    let mut after = before.clone();
    events.iter().for_each(|e| after.evolve(e));
    assert_eq!(after, before);
    let unknown = RecordDuplicate { message: message_id(9), mailbox: mailbox_id(1) };
    given(history()).when(unknown).then_rejected(&Rejected::Unknown);
}
