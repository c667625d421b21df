//! Why an address cannot be listened on, in one sentence: which address, what is in the way, what to
//! change. The operating system's words are left out where ours say more.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// What an address is listened on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, for HTTP or for agents whose network drops UDP.
    Tcp,
    /// UDP, for QUIC.
    Udp,
}

/// The sentence. `key` is the option that the address comes from.
pub fn cannot_listen(key: &str, at: SocketAddr, protocol: Protocol, error: &io::Error) -> String {
    let (name, flag) = match protocol {
        Protocol::Tcp => ("TCP", 't'),
        Protocol::Udp => ("UDP", 'u'),
    };
    let why = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "another process has this port (`ss -ln{flag}p` names it): stop that, or change {key}"
        ),
        ErrorKind::AddrNotAvailable => {
            format!("this host does not have that address: change {key}")
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 need root or CAP_NET_BIND_SERVICE: change {key}")
        }
        _ => format!("{error}: check {key}"),
    };
    format!("cannot listen on {name} {at}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ErrorKind, expected: &str) {
        let at = "127.0.0.1:9347".parse().unwrap();
        let error = io::Error::from(kind);
        let said = cannot_listen("listen.quic", at, Protocol::Udp, &error);
        assert_eq!(said, expected);
    }

    #[test]
    fn the_sentence_names_the_port_what_is_in_the_way_and_what_to_change() {
        check(
            ErrorKind::AddrInUse,
            "cannot listen on UDP 127.0.0.1:9347: another process has this port (`ss -lnup` names \
             it): stop that, or change listen.quic",
        );
        check(
            ErrorKind::AddrNotAvailable,
            "cannot listen on UDP 127.0.0.1:9347: this host does not have that address: change \
             listen.quic",
        );
        check(
            ErrorKind::OutOfMemory,
            "cannot listen on UDP 127.0.0.1:9347: out of memory: check listen.quic",
        );
    }
}
