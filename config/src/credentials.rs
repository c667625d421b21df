//! The user's credentials file: which server the `weir` commands talk to, and with which token.
//!
//! `weir up` writes it; the commands find it by themselves. It lies in
//! `$XDG_CONFIG_HOME/weir/credentials.yaml`, or `~/.config/weir/credentials.yaml`, with mode 0600.

use std::io;
use std::path::{Path, PathBuf};

use crate::environment::EmptyEnvironment;
use crate::fields::{Fields, Section};
use crate::load::load_source;
use crate::private_file;
use crate::problem::Source;

/// A server and the token it asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The server's URL.
    pub server: String,
    /// The bearer token.
    pub token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials {{ server: {:?}, token: … }}", self.server)
    }
}

impl Section for Credentials {
    fn read(fields: &mut Fields<'_>) -> Credentials {
        Credentials {
            server: fields.required("server", "The aggregator's HTTP address as a URL."),
            token: fields.required("token", "The bearer token it asks for."),
        }
    }
}

/// Where the file lies for this user; `None` when the environment names no home.
pub fn path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(base.join("weir").join("credentials.yaml"))
}

/// Writes the file.
pub fn write(path: &Path, credentials: &Credentials) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        private_file::create_dir(folder)?;
    }
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let text = format!(
        "# Written by `weir up`; the weir commands find it here.\nserver: {}\ntoken: {}\n",
        quoted(&credentials.server),
        quoted(&credentials.token)
    );
    private_file::write(path, text.as_bytes())
}

/// Reads the file; `None` when there is none. A damaged one, or one that others may read, is an
/// error that says what to do.
pub fn read(path: &Path) -> io::Result<Option<Credentials>> {
    let bytes = match private_file::read(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("{}: {error}", path.display());
            return Err(io::Error::new(error.kind(), message));
        }
        Ok(bytes) => bytes,
    };
    let source = Source {
        path: path.to_owned(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    };
    let wrong = |problems: crate::problem::Problems| {
        let message = format!("{problems}\nremove the file, or run `weir up` again");
        io::Error::new(io::ErrorKind::InvalidData, message)
    };
    let loaded = load_source::<Credentials>(source, &EmptyEnvironment).map_err(wrong)?;
    Ok(Some(loaded.config))
}

/// A URL and a token have a few hundred.
const FILE_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir/credentials.yaml");
        assert_eq!(read(&path).unwrap(), None);
        let written = Credentials {
            server: "http://127.0.0.1:9348".to_owned(),
            token: "weir_admin_x: \"#y\"".to_owned(),
        };
        write(&path, &written).unwrap();
        assert_eq!(read(&path).unwrap().as_ref(), Some(&written));
        assert!(!format!("{written:?}").contains("weir_admin"));
        private_file::write(&path, b"server: [").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("credentials.yaml:"), "{error}");
        assert!(error.to_string().contains("`weir up`"), "{error}");
    }
}
