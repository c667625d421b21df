use std::os::unix::fs::PermissionsExt;

use config::join::ENROL_ALPN;
use rustls::pki_types::CertificateDer;

use super::world::{DAY, Holder, World};
use crate::identity::reachable_at;

fn files(world: &World) -> (std::path::PathBuf, std::path::PathBuf) {
    let ca = world.dir.path().join("ca");
    (ca.join("key.pem"), ca.join("cert.pem"))
}

fn error(world: World) -> String {
    world
        .restarted()
        .map(|_| ())
        .expect_err("an error")
        .to_string()
}

#[test]
fn the_authority_stays_over_restarts_and_is_private() {
    let world = World::new();
    let pin = world.authority.pin();
    let (key, certificate) = files(&world);
    for path in [&key, &certificate] {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let dir = std::fs::metadata(key.parent().unwrap()).unwrap();
    assert_eq!(dir.permissions().mode() & 0o777, 0o700);
    assert_eq!(world.restarted().unwrap().authority.pin(), pin);
}

#[test]
fn an_authority_that_a_crash_left_half_made_is_completed() {
    let world = World::new();
    let pin = world.authority.pin();
    let (_, certificate) = files(&world);
    std::fs::remove_file(certificate).unwrap();
    // The key is the authority: its pin stays.
    assert_eq!(world.restarted().unwrap().authority.pin(), pin);
}

#[test]
fn a_new_authority_is_never_made_in_silence() {
    let world = World::new();
    let (key, _) = files(&world);
    std::fs::remove_file(key).unwrap();
    assert!(error(world).contains("key.pem is missing"));

    let world = World::new();
    let (key, _) = files(&world);
    std::fs::remove_dir_all(key.parent().unwrap()).unwrap();
    assert!(error(world).contains("restore it from a backup"));

    for which in 0..2 {
        let world = World::new();
        let (key, certificate) = files(&world);
        let path = if which == 0 { key } else { certificate };
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(error(world).contains("is damaged"));
    }

    let (world, other) = (World::new(), World::new());
    std::fs::copy(files(&other).0, files(&world).0).unwrap();
    assert!(error(world).contains("do not belong together"));
}

#[test]
fn a_new_authority_is_made_when_the_operator_empties_the_folder() {
    let world = World::new();
    let pin = world.authority.pin();
    let (key, certificate) = files(&world);
    std::fs::remove_file(key).unwrap();
    std::fs::remove_file(certificate).unwrap();
    let world = world.restarted().unwrap();
    assert_ne!(world.authority.pin(), pin);
    assert!(world.authority.pin().is_some());
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let world = World::new();
    let (key, _) = files(&world);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(error(world).contains("chmod 600"));
}

#[tokio::test]
async fn the_servers_certificate_is_renewed_by_itself() {
    let world = World::new();
    let shown = async || {
        let connection = world.connect(ENROL_ALPN, &Holder::new()).await;
        let (_, tls) = connection.client.get_ref();
        let chain: Vec<CertificateDer<'static>> = tls.peer_certificates().unwrap().to_vec();
        assert_eq!(
            chain.len(),
            2,
            "the authority is shown to those who know only its pin"
        );
        chain[0].clone()
    };
    let first = shown().await;
    world.pass(19 * DAY);
    assert_eq!(shown().await, first);
    world.pass(2 * DAY);
    assert_ne!(shown().await, first);
}

#[test]
fn agents_are_told_where_to_connect() {
    let told = |advertise: &[&str], listening: &str| {
        let advertise: Vec<_> = advertise.iter().map(|a| a.parse().unwrap()).collect();
        let addresses = reachable_at(&advertise, listening.parse().unwrap());
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        told(&["logs.example.com:1"], "0.0.0.0:9347"),
        ["logs.example.com:1"]
    );
    assert_eq!(told(&[], "127.0.0.1:9347"), ["127.0.0.1:9347"]);
    assert_eq!(told(&[], "[::1]:9347"), ["[::1]:9347"]);
    assert!(told(&[], "0.0.0.0:9347")[0].ends_with(":9347"));
}
