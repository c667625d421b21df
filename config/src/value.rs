//! What a single value can be. A kind of value is one `impl Value`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::problem::{Span, Spanned};
use crate::suggest;

/// A value's text as it was written, after substitution of environment variables.
#[derive(Debug, Clone, Copy)]
pub struct Scalar<'a> {
    /// The text, without quotes.
    pub text: &'a str,
    /// Where.
    pub span: Span,
    /// The configuration file's directory: relative paths start there.
    pub base: &'a Path,
}

/// Why a text is not such a value, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Something that a single text can say.
pub trait Value: Sized {
    /// What to write: completes "write …".
    const KIND: &'static str;

    /// Reads it.
    fn read(scalar: &Scalar<'_>) -> Result<Self, Mismatch>;

    /// Writes it back as it would stand in the file.
    fn show(&self) -> String;
}

/// `host:port`; the host is a name or an address, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

/// A value whose type lies in another crate and reads itself from text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FromText<T>(pub T);

impl Mismatch {
    /// A mismatch with its own advice.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Mismatch {
        Mismatch {
            message: message.into(),
            help: help.into(),
        }
    }

    /// "`text` is not what this needs: write a …".
    pub fn of<T: Value>(text: &str) -> Mismatch {
        let what = T::KIND.split(" such as ").next().unwrap_or(T::KIND);
        Mismatch::new(
            format!("`{text}` is not {what}"),
            format!("write {}", T::KIND),
        )
    }
}

impl<T: Value> Value for Spanned<T> {
    const KIND: &'static str = T::KIND;

    fn read(scalar: &Scalar<'_>) -> Result<Self, Mismatch> {
        let value = T::read(scalar)?;
        Ok(Spanned {
            value,
            span: scalar.span,
        })
    }

    fn show(&self) -> String {
        self.value.show()
    }
}

impl Value for String {
    const KIND: &'static str = "a text";

    fn read(scalar: &Scalar<'_>) -> Result<String, Mismatch> {
        if scalar.text.is_empty() {
            return Err(Mismatch::new("the text is empty", "write a text"));
        }
        Ok(scalar.text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "a path such as /var/lib/weir";

    fn read(scalar: &Scalar<'_>) -> Result<PathBuf, Mismatch> {
        if scalar.text.is_empty() || scalar.text.contains('\0') {
            return Err(Mismatch::of::<PathBuf>(scalar.text));
        }
        if scalar.text == "~" || scalar.text.starts_with("~/") {
            let help = "write the whole path: only a shell knows what `~` means";
            return Err(Mismatch::new(
                format!("`{}` begins with `~`", scalar.text),
                help,
            ));
        }
        Ok(scalar.base.join(scalar.text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for bool {
    const KIND: &'static str = "true or false";

    fn read(scalar: &Scalar<'_>) -> Result<bool, Mismatch> {
        match scalar.text {
            "true" => return Ok(true),
            "false" => return Ok(false),
            _ => {}
        }
        let meant = match scalar.text.to_ascii_lowercase().as_str() {
            "yes" | "y" | "on" | "1" | "true" | "enabled" => "write true",
            "no" | "n" | "off" | "0" | "false" | "disabled" => "write false",
            _ => "write true or false",
        };
        let message = format!("`{}` is not true or false", scalar.text);
        Err(Mismatch::new(message, meant))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    const KIND: &'static str = "a whole number";

    fn read(scalar: &Scalar<'_>) -> Result<u32, Mismatch> {
        let plain = scalar.text.bytes().all(|b| b.is_ascii_digit());
        let number = scalar.text.parse::<u32>().ok().filter(|_| plain);
        number.ok_or_else(|| Mismatch::of::<u32>(scalar.text))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "an address to listen on such as 127.0.0.1:9348 or [::]:9348";

    fn read(scalar: &Scalar<'_>) -> Result<SocketAddr, Mismatch> {
        let text = scalar.text;
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let help = match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
            Ok(port) => {
                format!("write 127.0.0.1:{port} for this host only, 0.0.0.0:{port} for all")
            }
            Err(_) if text.starts_with("localhost:") => {
                format!("write {}", text.replacen("localhost", "127.0.0.1", 1))
            }
            Err(_) => format!("write {}", SocketAddr::KIND),
        };
        Err(Mismatch::new(
            format!("`{text}` is not an address to listen on"),
            help,
        ))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl FromStr for HostPort {
    type Err = Mismatch;

    fn from_str(text: &str) -> Result<HostPort, Mismatch> {
        let wrong = |help: String| Mismatch::new(format!("`{text}` is not host:port"), help);
        if let Some((_, rest)) = text.split_once("://") {
            let rest = rest.split('/').next().unwrap_or_default();
            return Err(wrong(format!("leave out what it begins with: {rest}")));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong(format!("add the port: {text}:9347")));
        };
        let Some(port) = port.parse::<u16>().ok().filter(|&port| port > 0) else {
            return Err(wrong("a port is a number from 1 to 65535".to_owned()));
        };
        let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = inner.unwrap_or(host);
        if inner.is_none() && host.contains(':') {
            return Err(wrong(format!(
                "put the address in brackets: [{host}]:{port}"
            )));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let good = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= 253 && host.chars().all(legal),
        };
        if !good {
            return Err(wrong(format!("write {}", HostPort::KIND)));
        }
        Ok(HostPort {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Value for HostPort {
    const KIND: &'static str = "host and port such as logs.example.com:9347";

    fn read(scalar: &Scalar<'_>) -> Result<HostPort, Mismatch> {
        scalar.text.parse()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Reads one of a few words: the body of [`Value::read`] for an enum.
pub fn choose<T: Copy>(scalar: &Scalar<'_>, words: &[(&str, T)]) -> Result<T, Mismatch> {
    let text = scalar.text;
    if let Some(&(_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(value);
    }
    let names: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
    let list = names.join(", ");
    let help = match suggest::nearest(text, &names) {
        Some(word) => format!("write `{word}`; possible are: {list}"),
        None => format!("write one of: {list}"),
    };
    Err(Mismatch::new(
        format!("`{text}` is not possible here"),
        help,
    ))
}

/// The word that stands for a value: the body of [`Value::show`] for an enum.
pub fn word_for<T: PartialEq>(value: &T, words: &[(&str, T)]) -> String {
    let found = words.iter().find(|(_, candidate)| candidate == value);
    found.map_or("", |&(word, _)| word).to_owned()
}

impl<T: FromStr<Err: fmt::Display> + fmt::Display> Value for FromText<T> {
    const KIND: &'static str = "a name";

    fn read(scalar: &Scalar<'_>) -> Result<Self, Mismatch> {
        match scalar.text.parse() {
            Ok(value) => Ok(FromText(value)),
            Err(error) => Err(Mismatch::new(error.to_string(), "")),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}
