//! Health probes, dialled by the host and not by the plugin: GET on an address that an observation reported, if it lies
//! in a network that the operator granted.

use crate::policy::path_problem;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
        // Addresses are judged as what they lead to, so a network of IPv4 in other clothes would hold none.
        let own = base.is_ipv4() || base.is_unspecified() || canonical(base) == base;
        (own && bits <= if base.is_ipv4() { 32 } else { 128 }).then_some(Self { base, bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
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

/// Addresses that a wide network must not open by the way: they lead to the host itself, to its link, or to whoever knows its
/// credentials. Only a network that lies within such a block grants what is in it.
const RESERVED: [(&str, u8); 8] = [
    ("127.0.0.0", 8),
    ("169.254.0.0", 16),
    ("::1", 128),
    ("fe80::", 10),
    // Metadata of clouds outside of the link's own block.
    ("fd00:ec2::254", 128),
    ("fd20:ce::254", 128),
    ("168.63.129.16", 32),
    ("100.100.100.200", 32),
];

/// Where an address really leads: one of IPv6 may be one of IPv4 in other clothes.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match segments {
        // Mapped, translated, compatible.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => v4(high, low),
        // NAT64 and 6to4.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// Whether the operator's networks let the host dial an address.
fn may_dial(address: IpAddr, networks: &[Network]) -> bool {
    let address = canonical(address);
    let nobody = address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let reserved = RESERVED.iter().find_map(|(base, bits)| {
        let block = Network::parse(&format!("{base}/{bits}"))?;
        block.contains(address).then_some(block)
    });
    !nobody
        && networks.iter().any(|network| {
            let wide = reserved.is_some_and(|block| network.bits < block.bits);
            network.contains(address) && !wide
        })
}

/// No names are resolved, no redirects followed, and the body is not read.
pub async fn probe_http(address: &str, path: &str, networks: &[Network], timeout: Duration) -> ProbeOutcome {
    let Ok(socket) = address.parse::<SocketAddr>() else {
        return ProbeOutcome::NotGranted(format!("{address} is not an IP address and port"));
    };
    if path_problem(path).is_some() {
        return ProbeOutcome::NotGranted(format!("{path:?} is no path to ask for"));
    }
    if !may_dial(socket.ip(), networks) {
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
    fn what_may_be_dialled() {
        for (network, address, expected) in [
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            // Wide networks do not open what is reserved; narrow ones do.
            ("0.0.0.0/0", "127.0.0.1", false),
            ("0.0.0.0/0", "169.254.169.254", false),
            ("0.0.0.0/0", "::ffff:169.254.169.254", false),
            ("169.254.0.0/16", "169.254.169.254", true),
            ("169.254.10.0/24", "169.254.10.9", true),
            ("0.0.0.0/0", "168.63.129.16", false),
            ("::/0", "::1", false),
            ("::1/128", "::1", true),
            ("::/0", "fe80::1", false),
            ("fe80::/10", "fe80::1", true),
            ("::/0", "fd00:ec2::254", false),
            ("::/0", "2001:db8::1", true),
            // One of IPv4 is judged as that, however it is written.
            ("::/0", "::ffff:10.0.0.1", false),
            ("::/0", "::10.0.0.1", false),
            ("::/0", "64:ff9b::7f00:1", false),
            ("::/0", "2002:7f00:1::", false),
            ("10.0.0.0/8", "64:ff9b::a00:1", true),
            ("0.0.0.0/0", "2002:a9fe:a9fe::1", false),
            // Nobody, and everybody.
            ("0.0.0.0/0", "0.0.0.0", false),
            ("0.0.0.0/32", "0.0.0.0", false),
            ("::/0", "::", false),
            ("224.0.0.0/4", "224.0.0.1", false),
            ("0.0.0.0/0", "255.255.255.255", false),
        ] {
            let network = Network::parse(network).unwrap();
            assert_eq!(
                may_dial(address.parse().unwrap(), &[network]),
                expected,
                "{network:?} {address}"
            );
        }
        for text in ["10.0.0.0/33", "10.0.0.0", "::ffff:10.0.0.0/104", "x/8"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        for (base, bits) in RESERVED {
            assert!(Network::parse(&format!("{base}/{bits}")).is_some(), "{base}");
        }
    }
}
