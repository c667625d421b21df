//! The admin token: made at the first start, in a file that only its owner may read.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::private_file;
use data_encoding::BASE32_NOPAD;

use crate::limits::ADMIN_TOKEN_BYTES_MAX;
use crate::parts::Random;

/// What the token begins with, so that scanners for leaked secrets can tell it.
const PREFIX: &str = "weir_admin_";

/// Where the token lies.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}

/// The token, made if there is none yet. Waits for the disk.
pub fn load_or_make(data_dir: &Path, random: &Random) -> anyhow::Result<String> {
    let path = path(data_dir);
    match private_file::read(&path, ADMIN_TOKEN_BYTES_MAX) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).ok();
            let token = text
                .map(|text| text.trim().to_owned())
                .filter(|token| !token.is_empty());
            token.with_context(|| {
                format!(
                    "{} holds no token; remove it to get a new one",
                    path.display()
                )
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; 20];
            random(&mut secret);
            let token = format!("{PREFIX}{}", BASE32_NOPAD.encode(&secret).to_lowercase());
            private_file::write(&path, format!("{token}\n").as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok(token)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
