//! Health probes, dialled by the host and not by the plugin: GET on an address that an observation reported, if it lies
//! in a network that the operator granted.

use http_body_util::Empty;
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Healthy,
    /// It answered, but not with 2xx.
    Status(u16),
    /// No answer.
    Silent(String),
    /// The address is not one the operator lets the host dial.
    NotGranted(String),
}

/// `10.0.0.0/8`, as the operator writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let base: IpAddr = base.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= if base.is_ipv4() { 32 } else { 128 }).then_some(Self { base, bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        // ::ffff:127.0.0.1 is 127.0.0.1, whatever it looks like.
        match (self.base.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                u64::from(base.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// No names are resolved, no redirects followed, and the body is not read.
pub async fn probe_http(address: &str, path: &str, networks: &[Network], timeout: Duration) -> ProbeOutcome {
    let Ok(socket) = address.parse::<SocketAddr>() else {
        return ProbeOutcome::NotGranted(format!("{address} is not an IP address and port"));
    };
    if !networks.iter().any(|network| network.contains(socket.ip())) {
        return ProbeOutcome::NotGranted(format!(
            "{address} is in none of the networks that the operator granted for probes"
        ));
    }
    match tokio::time::timeout(timeout, get(socket, path)).await {
        Ok(Ok(status)) if (200..300).contains(&status) => ProbeOutcome::Healthy,
        Ok(Ok(status)) => ProbeOutcome::Status(status),
        Ok(Err(message)) => ProbeOutcome::Silent(message),
        Err(_) => ProbeOutcome::Silent(format!("no answer within {} ms", timeout.as_millis())),
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<u16, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| text(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| text(&error))?;
    let status = sender
        .send_request(request)
        .await
        .map(|response| response.status().as_u16())
        .map_err(|error| text(&error));
    connection.abort();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (network, address, expected) in [
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "fe80::1", true),
            ("192.0.2.7/32", "192.0.2.7", true),
        ] {
            assert_eq!(
                Network::parse(network).unwrap().contains(address.parse().unwrap()),
                expected,
                "{network} {address}"
            );
        }
        assert_eq!(Network::parse("10.0.0.0/33"), None);
    }
}
