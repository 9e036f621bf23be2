//! A DNS whose records a test changes while the API looks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use async_trait::async_trait;
use mail::auth::{DnsError, MxRecord, Resolver, Zone};
use serde_json::Value;

#[derive(Default)]
pub struct Dns(Mutex<Zone>);

impl Dns {
    pub fn serve(&self, zone: Zone) {
        *self.0.lock().unwrap() = zone;
    }

    fn zone(&self) -> Zone {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Resolver for Dns {
    async fn txt(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        self.zone().txt(name).await
    }

    async fn a(&self, name: &str) -> Result<Vec<Ipv4Addr>, DnsError> {
        self.zone().a(name).await
    }

    async fn aaaa(&self, name: &str) -> Result<Vec<Ipv6Addr>, DnsError> {
        self.zone().aaaa(name).await
    }

    async fn mx(&self, name: &str) -> Result<Vec<MxRecord>, DnsError> {
        self.zone().mx(name).await
    }

    async fn ptr(&self, address: IpAddr) -> Result<Vec<String>, DnsError> {
        self.zone().ptr(address).await
    }
}

/// Returns the zone in which everything of `GET /domains/{id}/records` is published but what `left_out` names.
pub fn published(records: &Value, left_out: &[&str]) -> Zone {
    let mut zone = Zone::new();
    for record in records["records"].as_array().unwrap() {
        let text = |key: &str| record[key].as_str().unwrap();
        if left_out.contains(&text("purpose")) {
            continue;
        }
        zone = match text("type") {
            "MX" => zone.with_mx(text("name"), 10, text("value")),
            _ => zone.with_txt(text("name"), text("value")),
        };
    }
    zone
}
