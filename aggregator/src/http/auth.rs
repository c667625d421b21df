//! Who may ask: the bearer token, and the guards against pages in a browser that talk to a loopback
//! address (DNS rebinding, cross-site requests).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ring::hmac;

use super::error::ApiError;
use crate::parts::Random;

/// Decides who may ask.
#[derive(Clone)]
pub struct Gate {
    token: Option<Arc<TokenCheck>>,
    origins: Origins,
}

/// Which `Host` and `Origin` are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origins {
    /// Only names of this machine: the listener is on loopback, and a page whose name was pointed
    /// at it must not read it.
    Loopback,
    /// Any: others reach it by whatever name it has, and the token protects it.
    Any,
}

/// Compares a shown token with the right one in a time that does not depend on either: both are
/// authenticated under a key that nobody knows.
struct TokenCheck {
    key: hmac::Key,
    right: hmac::Tag,
}

impl Gate {
    /// Everybody may ask. The configuration allows it on loopback only.
    pub fn open() -> Gate {
        Gate {
            token: None,
            origins: Origins::Loopback,
        }
    }

    /// Who shows `token` may ask.
    pub fn token(token: &str, origins: Origins, random: &Random) -> Gate {
        let mut key = [0; 32];
        random(&mut key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let right = hmac::sign(&key, token.as_bytes());
        Gate {
            token: Some(Arc::new(TokenCheck { key, right })),
            origins,
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(check) = &self.token else {
            return Ok(());
        };
        let hint = "send `Authorization: Bearer TOKEN`; the admin token is in admin.token in the \
                    aggregator's data directory";
        let refuse = |message: &str| {
            ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message, hint).with_header(
                header::WWW_AUTHENTICATE,
                axum::http::HeaderValue::from_static("Bearer"),
            )
        };
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else {
            return Err(refuse("this needs one bearer token"));
        };
        let Some(shown) = shown.to_str().ok().and_then(bearer) else {
            return Err(refuse("the Authorization header is no bearer token"));
        };
        // Signed and compared as bytes; `verify` compares in constant time.
        match hmac::verify(&check.key, shown.as_bytes(), check.right.as_ref()) {
            Ok(()) => Ok(()),
            Err(_) => Err(refuse("the bearer token is wrong")),
        }
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.origins == Origins::Any {
            return Ok(());
        }
        let refuse = |what: &str, value: &str| {
            let message =
                format!("this aggregator listens on loopback; {what} {value:?} is not it");
            ApiError::new(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                message,
                "use http://127.0.0.1 or http://localhost",
            )
        };
        let host = headers
            .get(header::HOST)
            .map(|host| host.to_str().unwrap_or("?"));
        match host {
            Some(host) if is_loopback(host) => {}
            other => return Err(refuse("the host", other.unwrap_or(""))),
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or("?");
        let own = origin
            .strip_prefix("http://")
            .is_some_and(|origin| Some(origin) == host);
        if own {
            Ok(())
        } else {
            Err(refuse("the origin", origin))
        }
    }
}

/// What follows the scheme, whose case does not matter.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Whether a `Host` names this machine's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// For every route: the guards against foreign pages.
pub(super) async fn require_origin(
    State(gate): State<Gate>,
    request: Request,
    next: Next,
) -> Response {
    match gate.check_origin(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// For the routes that are not open to everybody.
pub(super) async fn require_token(
    State(gate): State<Gate>,
    request: Request,
    next: Next,
) -> Response {
    match gate.check_token(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebound_name_is_not_loopback() {
        for host in [
            "localhost",
            "localhost:9348",
            "127.0.0.1:1",
            "127.1.2.3",
            "[::1]:9348",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "localhost:x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let check = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            Gate::open().check_origin(&headers).is_ok()
        };
        assert!(check("127.0.0.1:9348", None));
        assert!(check("127.0.0.1:9348", Some("http://127.0.0.1:9348")));
        assert!(!check("127.0.0.1:9348", Some("http://evil.example")));
        assert!(!check("127.0.0.1:9348", Some("http://127.0.0.1:8000")));
        assert!(!check("127.0.0.1:9348", Some("null")));
        assert!(!check("evil.example", None));
    }

    #[test]
    fn only_the_one_token_opens() {
        let random: Random = Arc::new(|bytes: &mut [u8]| bytes.fill(7));
        let gate = Gate::token("secret", Origins::Any, &random);
        let check = |shown: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for shown in shown {
                headers.append(header::AUTHORIZATION, shown.parse().unwrap());
            }
            gate.check_token(&headers).is_ok()
        };
        assert!(check(&["Bearer secret"]));
        assert!(check(&["bearer secret"]));
        assert!(!check(&[]));
        assert!(!check(&["secret"]));
        assert!(!check(&["Basic secret"]));
        assert!(!check(&["Bearer "]));
        assert!(!check(&["Bearer secre"]));
        assert!(!check(&["Bearer secret", "Bearer other"]));
    }
}
