//! The statements and the rule that the model goes by are the same.

use projections::db::Select;
use proptest::prelude::*;

use super::super::lease::Lease;
use super::*;

/// Asked of the lease of one webhook by one of three nodes, some time after what was asked before.
#[derive(Debug, Clone)]
struct Asked {
    node: &'static str,
    later: i64,
    ask: Ask,
}

#[derive(Debug, Clone)]
enum Ask {
    Take,
    /// Under the node's own lease, or under the one that whoever took it last has.
    Write(Hold, bool),
    Renew(bool),
}

fn asked() -> impl Strategy<Value = Asked> {
    let hold = prop_oneof![Just(Hold::Keep), Just(Hold::Release), Just(Hold::HandOver)];
    let ask = prop_oneof![
        3 => Just(Ask::Take),
        4 => (hold, any::<bool>()).prop_map(|(hold, newest)| Ask::Write(hold, newest)),
        2 => any::<bool>().prop_map(Ask::Renew),
    ];
    // To the microsecond before a lease ends, to its end, and behind it.
    let later = prop_oneof![3 => Just(0), 1 => Just(LEASE - 1), 1 => Just(LEASE), 1 => Just(1), 1 => 0..2 * LEASE];
    (prop::sample::select(vec!["a", "b", "c"]), later, ask).prop_map(|(node, later, ask)| Asked { node, later, ask })
}

/// Returns the lease as the database has it.
async fn stored(queue: &Queue, key: &Key) -> Lease {
    let mut select = Select::new("SELECT owner, epoch, expires_at FROM webhook_cursors WHERE team_id = ");
    select.text(key.team.as_str()).push(" AND webhook_id = ").text(key.webhook.as_str());
    let found = select.fetch(&mut queue.work().read().await.unwrap()).await.unwrap();
    let Some(cells) = found.first() else { return Lease::free() };
    let int = |name| i64::try_from(cells.unsigned(name).unwrap()).unwrap();
    Lease { owner: cells.text("owner").unwrap(), epoch: int("epoch"), expires_at: int("expires_at") }
}

async fn follow(queue: &Queue, key: &Key, all: &[Asked]) {
    let mut lease = Lease::free();
    let mut now = NOW;
    // The lease each node took last, which it may have lost.
    let mut epochs = std::collections::BTreeMap::new();
    for asked in all {
        now += asked.later;
        let (node, until) = (asked.node, now + LEASE);
        let of = |newest: bool| if newest { lease.epoch } else { *epochs.get(node).unwrap_or(&0) };
        let (next, granted) = match &asked.ask {
            Ask::Take => {
                let granted = take(queue, key, node, now).await.map(|leased| leased.epoch);
                epochs.extend(granted.map(|epoch| (node, epoch)));
                (lease.taken(node, now, until), granted.is_some())
            }
            Ask::Write(hold, newest) => {
                let write = written(key, of(*newest), 9, vec![], *hold);
                let lost = queue.write(&[write], node, 1, until).await.unwrap();
                (lease.written(node, of(*newest), *hold, until), lost.is_empty())
            }
            Ask::Renew(newest) => {
                let lost = queue.renew(&[(key.clone(), of(*newest))], node, until).await.unwrap();
                (lease.renewed(node, of(*newest), until), lost.is_empty())
            }
        };
        assert_eq!(next.is_some(), granted, "{asked:?} of {lease:?}");
        lease = next.unwrap_or(lease);
        assert_eq!(stored(queue, key).await, lease, "after {asked:?}");
    }
}

#[test]
fn the_statements_say_what_the_rule_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let queues = runtime.block_on(queues());
    let webhooks = std::cell::Cell::new(0u16);
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(all in prop::collection::vec(asked(), 1..30))| {
        let n = webhooks.replace(webhooks.get() + 1).to_be_bytes();
        let id = [n[0], n[1], 0, 0, 0, 0, 0, 0, 0];
        let key = Key { team: TeamId::new(NOW, id), webhook: WebhookId::new(NOW, id) };
        for queue in &queues {
            runtime.block_on(follow(queue, &key, &all));
        }
    });
}
