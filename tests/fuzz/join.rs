//! Join tokens, which people paste, and the messages of enrolment, which anybody can send.

use config::join::id::{AuthorityPin, TokenId};
use config::join::message::{
    Accepted, Binary, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Reply, Request, Topic, content_bytes,
    decode, encode,
};
use config::join::refusal::{Code, Refusal};
use config::join::token::{JoinToken, Secret};
use weir_tests::fuzz::fuzz;

#[test]
fn a_token_is_read_or_refused() {
    let tokens: Vec<Vec<u8>> = [
        &["127.0.0.1:9347"][..],
        &["[::1]:1", "logs.example.com:65535", "a:2"],
    ]
    .into_iter()
    .map(|addresses| token(addresses).to_string().into_bytes())
    .collect();
    fuzz("token", &tokens, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match text.parse::<JoinToken>() {
            Ok(read) => {
                assert!(!read.addresses.is_empty());
                let again = read.to_string();
                assert_eq!(again.parse::<JoinToken>().as_ref(), Ok(&read));
                "read".to_owned()
            }
            Err(refusal) => refusal.to_string(),
        }
    });
}

#[test]
fn an_enrolment_message_is_read_or_refused() {
    fuzz("enrolment", &messages(), |bytes| {
        let Some((header, content)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return "too short".to_owned();
        };
        if let Ok(length) = content_bytes(*header) {
            assert!(length <= FRAME_BYTES_MAX);
        }
        let request = match decode::<Request>(content) {
            Ok(request) => {
                let frame = encode(&request).unwrap();
                let again = decode::<Request>(&frame[FRAME_HEADER_BYTES..]);
                assert_eq!(again, Ok(request));
                "a request".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let reply = match decode::<Reply>(content) {
            Ok(reply) => {
                let frame = encode(&reply).unwrap();
                assert_eq!(decode::<Reply>(&frame[FRAME_HEADER_BYTES..]), Ok(reply));
                "a reply".to_owned()
            }
            Err(error) => error.to_string(),
        };
        format!("{request}; {reply}")
    });
}

fn token(addresses: &[&str]) -> JoinToken {
    JoinToken {
        pin: AuthorityPin([0xa5; 20]),
        id: TokenId([1, 2, 3, 4, 5]),
        secret: Secret(*b"sixteen letters!"),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

fn messages() -> Vec<Vec<u8>> {
    let binary = |bytes: &[u8]| Binary(bytes.to_vec());
    let request = Request {
        token: "abcdefgh".to_owned(),
        certificate_request: binary(&[0x30, 1, 0]),
        proof: binary(&[7; 32]),
        host: "host-1".to_owned(),
    };
    let accepted = Reply::Accepted(Accepted {
        agent: "agent-1".to_owned(),
        certificates: vec![binary(b"certificate")],
        authorities: vec![binary(b"authority")],
        aggregators: vec!["a:1".to_owned()],
        topics: vec![Topic {
            name: "logs".to_owned(),
            partitions: 4,
        }],
        allowed: vec!["*".to_owned()],
    });
    let refused = Reply::Refused(Refusal::new(Code::TokenExpired, "message", "help"));
    vec![
        encode(&request).unwrap(),
        encode(&accepted).unwrap(),
        encode(&refused).unwrap(),
    ]
}
