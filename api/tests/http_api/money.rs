//! A team's money: what it has, what came in and went out, and mail that stops without it.

use domain::balance::{AdjustBalance, AdjustmentKind, PaymentKind, TopUp};
use domain::id::PaymentId;
use domain::money::Nanos;
use serde_json::{Value, json};

use crate::harness::{SECOND, Team, World};
use crate::sending::{mail, sender, settle};

async fn pay(world: &World, team: &Team, kind: PaymentKind, amount: i64, note: Option<&str>) {
    let payment = PaymentId::new(world.now(), world.app.allot.random());
    world.command(&team.id, TopUp { payment, kind, amount: Nanos(amount), note: note.map(str::to_owned) }).await;
}

async fn get(world: &World, team: &Team, path: &str) -> Value {
    world.get(path).key(&team.root).send().await.data()
}

#[tokio::test]
async fn the_balance_moves_with_payments_holds_and_charges() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    pay(&world, &team, PaymentKind::Purchase, 10_000_000_000, Some("Invoice 7")).await;
    pay(&world, &team, PaymentKind::AutoTopUp, 2_000_000_000, None).await;
    let before = get(&world, &team, "/billing/balance").await;
    assert_eq!((&before["balance"], &before["balance_purchased"]), (&json!("13.000000"), &json!("12.000000")));
    assert_eq!((&before["credit_limit"], &before["currency"]), (&json!("1.000000"), &json!("USD")));
    assert_eq!(before["auto_topup"]["monthly_used"], "2.000000");
    let mut body = mail();
    body["cc"] = json!([{"email": "carl@example.net"}]);
    let sent = world.post("/emails/send").key(&key).json(&body).send().await.data();
    let held = get(&world, &team, "/billing/balance").await;
    assert_eq!((&held["balance"], &held["balance_held"]), (&json!("12.999700"), &json!("0.000300")));
    settle(&world, &team, &sent["message_id"]).await;
    let after = get(&world, &team, "/billing/balance").await;
    assert_eq!((&after["balance_held"], &after["balance_consumed"]), (&json!("0.000000"), &json!("0.000150")));
    assert_eq!(after["balance"], "12.999850", "one recipient was taken, the other let go");
    let usage = get(&world, &team, "/billing/usage").await;
    let outgoing = usage["usage"].as_array().unwrap().iter().find(|r| r["meter"] == "outgoing_recipients").unwrap();
    assert_eq!((&outgoing["units"], &outgoing["amount"]), (&json!(1), &json!("0.000150000")));
    assert!(outgoing["key_id"].as_str().unwrap().starts_with("smx_"), "{outgoing}");
    let summary = get(&world, &team, "/billing/summary?days=7").await;
    assert_eq!(
        (&summary["total_purchased"], &summary["total_consumed"], &summary["transaction_count"]),
        (&json!("12.000000"), &json!("0.000150"), &json!(3))
    );
}

#[tokio::test]
async fn transactions_are_listed_with_the_balance_around_them() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    pay(&world, &team, PaymentKind::Purchase, 1_000_000_000, Some("Invoice 7")).await;
    world.advance(SECOND);
    pay(&world, &team, PaymentKind::Credit, 500_000_000, None).await;
    world.advance(SECOND);
    let payment = PaymentId::new(world.now(), world.app.allot.random());
    let refund = AdjustBalance { payment, kind: AdjustmentKind::Refund, amount: Nanos(-200_000_000), note: None };
    world.command(&team.id, refund).await;
    let sent = world.post("/emails/send").key(&key).json(&mail()).send().await.data();
    settle(&world, &team, &sent["message_id"]).await;
    let all = get(&world, &team, "/billing/transactions").await;
    let kinds: Vec<_> = all.as_array().unwrap().iter().map(|t| t["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["USAGE", "REFUND", "ADJUSTMENT", "PURCHASE"]);
    assert_eq!((&all[0]["amount"], &all[0]["quantity"]), (&json!("-0.000150"), &json!(1)));
    assert_eq!((&all[0]["balance_before"], &all[0]["balance_after"]), (&json!("1.300000"), &json!("1.299850")));
    assert_eq!((&all[3]["description"], &all[3]["balance_before"]), (&json!("Invoice 7"), &json!("0.000000")));
    for pair in all.as_array().unwrap().windows(2) {
        assert_eq!(pair[0]["balance_before"], pair[1]["balance_after"], "without a gap");
    }
    let gifts = get(&world, &team, "/billing/transactions?type=ADJUSTMENT").await;
    assert_eq!(gifts.as_array().unwrap().len(), 1);
    let page = world.get("/billing/transactions?limit=3").key(&team.root).send().await.json();
    let next = page["pagination"]["next_cursor"].as_str().unwrap();
    let rest = get(&world, &team, &format!("/billing/transactions?limit=3&cursor={next}")).await;
    assert_eq!(rest[0]["type"], "PURCHASE");
    for (path, field) in [("/billing/transactions?type=GIFT", "type"), ("/billing/summary?days=31", "days")] {
        let answer = world.get(path).key(&team.root).send().await;
        assert_eq!((answer.refusal().0, answer.param().as_str()), (400, field));
    }
}

#[tokio::test]
async fn mail_for_more_recipients_than_the_money_is_for_is_refused_as_a_whole() {
    let world = World::new().await;
    let (team, key) = sender(&world, "a.test").await;
    world.command(&team.id, domain::balance::ChangeCreditLimit { credit_limit: Nanos(300_000) }).await;
    let mut three = mail();
    three["cc"] = json!([{"email": "carl@example.net"}, {"email": "dora@example.net"}]);
    let refused = world.post("/emails/send").key(&key).json(&three).send().await;
    assert_eq!(refused.refusal(), (402, "insufficient_credits".to_owned()));
    let batch = json!({"messages": [mail(), mail(), mail()]});
    let partly = world.post("/emails/send/batch").key(&key).json(&batch).send().await.data();
    assert_eq!(partly["summary"], json!({"total": 3, "queued": 2, "failed": 1}));
    let failed = partly["results"].as_array().unwrap().iter().find(|r| r["status"] == "failed").unwrap();
    assert_eq!(failed["error"]["code"], "insufficient_credits");
}

/// How many rounds; `POSTLOG_TEST_RACES` sets another number.
fn races() -> i64 {
    std::env::var("POSTLOG_TEST_RACES").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// How many rounds a team plays: more would meet its limit of requests.
const ROUNDS_PER_TEAM: i64 = 20;

#[tokio::test]
async fn of_many_sends_at_once_the_last_money_pays_for_one() {
    let mut rounds = races();
    while rounds > 0 {
        let world = World::new().await;
        let (team, key) = sender(&world, "a.test").await;
        for round in 1..=rounds.min(ROUNDS_PER_TEAM) {
            let credit_limit = Nanos(150_000 * round);
            world.command(&team.id, domain::balance::ChangeCreditLimit { credit_limit }).await;
            let sends = (0..64).map(|_| world.post("/emails/send").key(&key).json(&mail()).send());
            let answers = futures_util::future::join_all(sends).await;
            let taken = answers.iter().filter(|answer| answer.status.is_success()).count();
            let refused = answers.iter().filter(|answer| answer.status.as_u16() == 402).count();
            assert_eq!((taken, refused), (1, 63), "round {round}, {rounds} left");
        }
        let balance = get(&world, &team, "/billing/balance").await;
        assert_eq!(balance["balance"], "0.000000", "{balance}");
        rounds -= ROUNDS_PER_TEAM;
    }
}
