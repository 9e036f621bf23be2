//! A sending domain, from its creation to its verification, through a real DNS server that holds the records as the zone
//! file of the API says them.

use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server as DnsServer;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::Name;
use hickory_server::proto::serialize::txt::Parser;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use serde_json::json;
use tokio::net::{TcpListener, UdpSocket};

use crate::harness::{Client, Installation};

/// The zone `example.com`, served on loopback by UDP and TCP.
struct Zone {
    records: Arc<InMemoryZoneHandler<TokioRuntimeProvider>>,
    address: String,
    _server: DnsServer<Catalog>,
}

impl Zone {
    async fn serve() -> Self {
        let origin = Name::from_ascii("example.com.").unwrap();
        let soa = "example.com. 60 IN SOA ns.example.com. hostmaster.example.com. 1 60 60 60 60\n";
        let (_, sets) = Parser::new(soa, None, Some(origin.clone())).parse().unwrap();
        let records = InMemoryZoneHandler::new(origin.clone(), sets, ZoneType::Primary, AxfrPolicy::Deny).unwrap();
        let records: Arc<InMemoryZoneHandler<TokioRuntimeProvider>> = Arc::new(records);
        let handler: Arc<dyn ZoneHandler> = records.clone();
        let mut catalog = Catalog::new();
        catalog.upsert(origin.into(), vec![handler]);
        let mut server = DnsServer::new(catalog);
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        server.register_socket(udp);
        server.register_listener(TcpListener::bind(address).await.unwrap(), Duration::from_secs(10), 16);
        Self { records, address: address.to_string(), _server: server }
    }

    /// Publishes the records of a zone file.
    async fn publish(&self, file: &str, serial: u32) {
        let origin = Name::from_ascii("example.com.").unwrap();
        let (_, sets) = Parser::new(file.to_owned(), None, Some(origin)).parse().unwrap();
        for set in sets.values() {
            for record in set.records_without_rrsigs() {
                self.records.upsert(record.clone(), serial).await;
            }
        }
    }
}

async fn zone_file(client: &Client, path: &str) -> String {
    client.request(reqwest::Method::GET, &format!("{path}/zone-file")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_is_verified_by_itself_once_its_zone_file_is_published() {
    let zone = Zone::serve().await;
    let installation = Installation::new()
        .with("DNS__SERVER", &zone.address)
        .with("DNS__MX_HOST", "mx.post.example")
        .with("DNS__SPF_MECHANISM", "include:_spf.post.example")
        .with("DNS__POLL_MILLISECONDS", "50")
        .with("DNS__SWEEP_SECONDS", "1")
        .with("DNS__PENDING_INTERVAL_SECONDS", "1")
        .with("DNS__RETRY_SECONDS", "1")
        .with("DNS__INTERVAL_SECONDS", "1");
    let server = installation.start();
    let root = server.client(&server.keys.clone().unwrap().root);
    let (status, made) = root.post("/domains", json!({"domain": "mail.example.com"})).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/domains/{}", made["data"]["id"].as_str().unwrap());
    let (status, looked) = root.post(&format!("{path}/verify"), json!({})).await;
    assert_eq!((status, &looked["data"]["status"]), (200, &json!("pending")), "{looked}");

    // An RSA key does not fit into one string of a TXT record, nor the answer into one datagram without EDNS.
    let file = zone_file(&root, &path).await;
    assert!(file.contains("\" \""), "{file}");
    zone.publish(&file, 2).await;
    let verified = root.wait_for(&path, |body| body["data"]["verification_status"] == "verified").await;
    assert_eq!(verified["data"]["ses_dkim_status"], "success");
    let (_, records) = root.get(&format!("{path}/records")).await;
    let records = records["data"]["records"].as_array().unwrap().clone();
    assert!(records.iter().all(|record| record["status"] == "ok"), "{records:?}");
    let spf = records.iter().find(|record| record["purpose"] == "spf").unwrap();
    assert_eq!(spf["found"], json!(["v=spf1 include:_spf.post.example ~all"]));

    // A rotation: the successor signs once its record is there, without anybody asking.
    let (status, next) = root.post(&format!("{path}/signing-keys"), json!({"algorithm": "rsa"})).await;
    assert_eq!(status, 201, "{next}");
    let selector = next["data"]["selector"].clone();
    zone.publish(&zone_file(&root, &path).await, 3).await;
    let keys = root
        .wait_for(&format!("{path}/signing-keys"), |body| {
            let keys = body["data"].as_array().cloned().unwrap_or_default();
            keys.iter().any(|key| key["selector"] == selector && key["status"] == "active")
        })
        .await;
    assert!(keys["data"].as_array().unwrap().iter().any(|key| key["status"] == "retired"), "{keys}");
    let (_, audit) = root.get("/audit/events?limit=100").await;
    assert!(audit.to_string().contains("system:dns"), "{audit}");
}
