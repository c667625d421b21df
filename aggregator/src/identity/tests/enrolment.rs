use commitlog::id::Timestamp;
use config::join::ENROL_ALPN;
use config::join::id::AgentId;
use config::join::message::{Binary, Reply, encode};
use config::join::refusal::{Code, Refusal};
use config::join::token::{JoinToken, Secret};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use super::world::{DAY, Holder, World, request, request_with};
use crate::identity::acl::TopicAcl;
use crate::identity::peer::AgentIdentity;
use crate::identity::tokens::TokenState;
use crate::limits::{ENROL_FAILURES_MAX, ENROL_WINDOW_MS};

#[tokio::test]
async fn an_agent_joins_and_is_known_by_its_certificate() {
    let world = World::new();
    let holder = Holder::new();
    let accepted = world
        .join(&world.token_for(1, "web-*"), &holder)
        .await
        .unwrap();
    let seen = world.authority.peer(&holder.with(&accepted).chain).unwrap();
    assert_eq!(seen.id.as_str(), accepted.agent);
    assert!(seen.topics.allows(&"web-access".parse().unwrap()));
    assert!(!seen.topics.allows(&"logs".parse().unwrap()));
    let agents = world.authority.agents().unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].host, "host-1[31m");
}

#[tokio::test]
async fn a_token_that_is_over_is_refused_with_the_reason() {
    let world = World::new();
    let (used, revoked, expired) = (world.token(1), world.token(1), world.token(1));
    world.join(&used, &Holder::new()).await.unwrap();
    world
        .authority
        .revoke_token(&revoked.id.to_string())
        .unwrap()
        .unwrap();
    let code = |outcome: Result<_, Refusal>| outcome.map(|_| ()).unwrap_err().code;
    assert_eq!(
        code(world.join(&used, &Holder::new()).await),
        Code::TokenUsedUp
    );
    assert_eq!(
        code(world.join(&revoked, &Holder::new()).await),
        Code::TokenRevoked
    );
    world.pass(3_600_000);
    assert_eq!(
        code(world.join(&expired, &Holder::new()).await),
        Code::TokenExpired
    );
    let other = World::new().token(1);
    assert_eq!(
        code(world.join(&other, &Holder::new()).await),
        Code::TokenUnknown
    );
    let states: Vec<TokenState> = world
        .authority
        .tokens()
        .unwrap()
        .into_iter()
        .map(|token| token.state)
        .collect();
    assert!(states.contains(&TokenState::Expired) && states.contains(&TokenState::Revoked));
    assert!(world.authority.agents().unwrap().len() == 1);
}

#[tokio::test]
async fn a_wrong_secret_learns_nothing_of_the_token() {
    let world = World::new();
    let token = world.token(1);
    world.authority.revoke_token(&token.id.to_string()).unwrap();
    let guess = JoinToken {
        secret: Secret([0; 16]),
        ..token
    };
    let refusal = world.join(&guess, &Holder::new()).await.unwrap_err();
    assert_eq!(refusal.code, Code::BadProof);
}

#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let world = World::new();
    let (token, holder) = (world.token(2), Holder::new());
    // Overheard on one connection, which used it, and played again on another.
    let first = world.connect(ENROL_ALPN, &holder).await;
    let overheard = request(&token, &holder, &first.client_exporter());
    world.send(first, &overheard).await.unwrap();
    let replay = world.connect(ENROL_ALPN, &Holder::new()).await;
    is_a_bad_proof(&world.send(replay, &overheard).await.unwrap_err());
    assert_eq!(world.authority.tokens().unwrap()[0].uses_left, 1);
}

/// The same for a wrong secret, a replay and a relay: what is wrong, and what it can mean.
fn is_a_bad_proof(refusal: &Refusal) {
    assert_eq!(refusal.code, Code::BadProof);
    let said = refusal.to_string();
    for words in [
        "does not fit this token and this connection",
        "copy the token again",
        "somebody is between you and the aggregator",
    ] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn i24_a_proof_that_is_relayed_is_refused() {
    let world = World::new();
    // Whoever sits between ends the agent's connection with a certificate of its own, and passes what
    // the agent says on over a connection of its own.
    let between = World::new();
    let (token, victim) = (world.token(1), Holder::new());
    let agents_side = between.connect(ENROL_ALPN, &victim).await;
    let said = request(&token, &victim, &agents_side.client_exporter());
    let servers_side = world.connect(ENROL_ALPN, &Holder::new()).await;
    is_a_bad_proof(&world.send(servers_side, &said).await.unwrap_err());
    // Putting its own key into the request does not help it either.
    let servers_side = world.connect(ENROL_ALPN, &Holder::new()).await;
    let own_key = Holder::new().certificate_request(&CertificateParams::default());
    let forged = config::join::message::Request {
        certificate_request: Binary(own_key),
        ..said
    };
    is_a_bad_proof(&world.send(servers_side, &forged).await.unwrap_err());
}

#[tokio::test]
async fn i23_what_a_certificate_request_asks_for_is_not_looked_at() {
    let world = World::new();
    let (token, holder) = (world.token_for(1, "web-*"), Holder::new());
    let mut params = CertificateParams::default();
    for uri in ["weir://agent/somebody-else", "weir://topics/*"] {
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let connection = world.connect(ENROL_ALPN, &holder).await;
    let csr = holder.certificate_request(&params);
    let asked = request_with(&token, csr, &connection.client_exporter());
    let accepted = world.send(connection, &asked).await.unwrap();
    let seen = world.authority.peer(&holder.with(&accepted).chain).unwrap();
    assert_eq!(seen.id.as_str(), accepted.agent);
    assert_ne!(seen.id.as_str(), "somebody-else");
    assert_eq!(seen.topics.patterns(), ["web-*"]);
}

#[tokio::test]
async fn a_request_that_its_key_did_not_sign_is_refused() {
    let world = World::new();
    let (token, holder) = (world.token(1), Holder::new());
    let mut damaged = holder.certificate_request(&CertificateParams::default());
    *damaged.last_mut().unwrap() ^= 1;
    let other_algorithm = {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec()
    };
    for csr in [damaged, other_algorithm, Vec::new(), vec![0x30; 4000]] {
        let connection = world.connect(ENROL_ALPN, &holder).await;
        let asked = request_with(&token, csr, &connection.client_exporter());
        let refusal = world.send(connection, &asked).await.unwrap_err();
        assert_eq!(refusal.code, Code::BadRequest);
    }
    assert_eq!(world.authority.tokens().unwrap()[0].uses_left, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_uses_make_fifty_agents_however_many_ask_at_once() {
    let world = std::sync::Arc::new(World::new());
    let token = world.token(50);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (world, token) = (std::sync::Arc::clone(&world), token.clone());
        asking.spawn(async move { world.join(&token, &Holder::new()).await });
    }
    let outcomes = asking.join_all().await;
    let mut agents: Vec<String> = outcomes
        .iter()
        .filter_map(|o| o.as_ref().ok())
        .map(|a| a.agent.clone())
        .collect();
    agents.sort();
    agents.dedup();
    assert_eq!(agents.len(), 50);
    // The rest are told that it is used up, or, once enough have failed, to wait.
    let refused = outcomes.iter().filter_map(|o| o.as_ref().err());
    assert!(
        refused
            .map(|r| r.code)
            .all(|c| c == Code::TokenUsedUp || c == Code::RateLimited)
    );
    assert_eq!(world.authority.agents().unwrap().len(), 50);
    assert_eq!(world.authority.tokens().unwrap()[0].uses_left, 0);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_again_without_another_use() {
    let world = World::new();
    let (token, holder) = (world.token(1), Holder::new());
    let lost = world.join(&token, &holder).await.unwrap();
    let again = world.join(&token, &holder).await.unwrap();
    assert_eq!(lost.agent, again.agent);
    assert_eq!(world.authority.tokens().unwrap()[0].uses_left, 0);
    // Not after the token was taken back, and not with another token's right.
    world.authority.revoke_token(&token.id.to_string()).unwrap();
    assert_eq!(
        world.join(&token, &holder).await.unwrap_err().code,
        Code::TokenRevoked
    );
}

#[tokio::test]
async fn who_shows_the_old_key_keeps_its_name() {
    let world = World::new();
    let first = Holder::new();
    let old = world.join(&world.token(1), &first).await.unwrap();
    // With another key, over a connection that proves the old one; also when that has expired.
    world.pass(60 * DAY);
    let shown = first.with(&old);
    let connection = world.connect(ENROL_ALPN, &shown).await;
    let (token, second) = (world.token(1), Holder::new());
    let asked = request(&token, &second, &connection.client_exporter());
    let new = world.send(connection, &asked).await.unwrap();
    assert_eq!(new.agent, old.agent);
    // The certificate alone is public: without its key it keeps nothing.
    let stranger = world.join(&world.token(1), &Holder::new()).await.unwrap();
    assert_ne!(stranger.agent, old.agent);
    // A revoked name is gone for good.
    world
        .authority
        .revoke_agent(&old.agent.parse().unwrap())
        .unwrap();
    let connection = world.connect(ENROL_ALPN, &shown).await;
    let token = world.token(1);
    let asked = request(&token, &Holder::new(), &connection.client_exporter());
    assert_ne!(
        world.send(connection, &asked).await.unwrap().agent,
        old.agent
    );
}

/// What a joined agent may write stands in its certificates; the last join decides for all of them.
#[tokio::test]
async fn joining_again_with_fewer_topics_takes_them_from_older_certificates_too() {
    let world = World::new();
    let first = Holder::new();
    let wide = world.join(&world.token(1), &first).await.unwrap();
    let shown = first.with(&wide);
    let before = world.authority.peer(&shown.chain).unwrap();
    assert_eq!(before.topics.patterns(), ["*"]);
    let connection = world.connect(ENROL_ALPN, &shown).await;
    let (token, second) = (world.token_for(1, "web-*"), Holder::new());
    let asked = request(&token, &second, &connection.client_exporter());
    let narrow = world.send(connection, &asked).await.unwrap();
    assert_eq!(narrow.agent, wide.agent);

    // The old certificate, on its next connection; and one that a session asks for which began before.
    let old = world.authority.peer(&shown.chain).unwrap();
    assert_eq!(old.topics.patterns(), ["web-*"]);
    // A session that is open starts over, once.
    assert!(world.authority.is_granted_otherwise(&before));
    assert!(!world.authority.is_granted_otherwise(&old));
    let csr = shown.certificate_request(&CertificateParams::default());
    let renewed = world.authority.renew(&before, &csr).await.unwrap();
    let chain = [renewed.certificates[0].clone().into()];
    assert_eq!(world.authority.peer(&chain).unwrap().topics, old.topics);
    assert_eq!(world.authority.agents().unwrap()[0].topics, ["web-*"]);
    let world = world.restarted().unwrap();
    assert_eq!(
        world.authority.peer(&shown.chain).unwrap().topics,
        old.topics
    );
}

/// Its grants change where it joined, and nobody tells the others: what they renewed must not hold it
/// to what it had then.
#[tokio::test]
async fn a_stranger_of_the_same_authority_goes_by_its_certificate() {
    let world = World::new();
    let id = "came-from-elsewhere".parse::<AgentId>().unwrap();
    let certified = async |world: &World, topics: &str| {
        let agent = AgentIdentity {
            id: id.clone(),
            topics: TopicAcl::new(vec![topics.to_owned()]).unwrap(),
            expires: Timestamp(i64::MAX),
        };
        let csr = Holder::new().certificate_request(&CertificateParams::default());
        let renewed = world.authority.renew(&agent, &csr).await.unwrap();
        vec![renewed.certificates[0].clone().into()]
    };
    certified(&world, "web-*").await;
    let other = certified(&world, "db-*").await;
    let world = world.restarted().unwrap();
    let seen = world.authority.peer(&other).unwrap();
    assert_eq!(seen.topics.patterns(), ["db-*"]);
    assert!(!world.authority.is_granted_otherwise(&seen));
}

#[tokio::test]
async fn an_agent_is_forgotten_a_month_after_its_certificate_ended() {
    let world = World::new();
    let (gone, stays) = (Holder::new(), Holder::new());
    let ended = world.join(&world.token(1), &gone).await.unwrap();
    let revoked = world.join(&world.token(1), &Holder::new()).await.unwrap();
    let revoked = revoked.agent.parse().unwrap();
    world.authority.revoke_agent(&revoked).unwrap();
    world.pass(31 * DAY);
    let kept = world.join(&world.token(1), &stays).await.unwrap();
    world.authority.forget_agents().unwrap();
    assert_eq!(world.authority.agents().unwrap().len(), 3);
    world.pass(30 * DAY);
    world.authority.forget_agents().unwrap();
    let left = world.authority.agents().unwrap();
    let mut left: Vec<_> = left.iter().map(|agent| agent.id.as_str()).collect();
    left.sort_unstable();
    let mut expected = [revoked.as_str(), kept.agent.as_str()];
    expected.sort_unstable();
    assert_eq!(left, expected, "who is shut out stays so");
    assert_eq!(world.authority.keys_known(), 2);
    // It comes back with a new token, under its name.
    let shown = gone.with(&ended);
    let connection = world.connect(ENROL_ALPN, &shown).await;
    let token = world.token(1);
    let asked = request(&token, &Holder::new(), &connection.client_exporter());
    let again = world.send(connection, &asked).await.unwrap();
    assert_eq!(again.agent, ended.agent);
}

#[tokio::test]
async fn an_agent_that_joins_again_and_again_leaves_one_key_behind() {
    let world = World::new();
    let mut shown = Holder::new();
    shown = shown.with(&world.join(&world.token(1), &shown).await.unwrap());
    for _ in 0..3 {
        let connection = world.connect(ENROL_ALPN, &shown).await;
        let (token, next) = (world.token(1), Holder::new());
        let asked = request(&token, &next, &connection.client_exporter());
        shown = next.with(&world.send(connection, &asked).await.unwrap());
    }
    assert_eq!(world.authority.agents().unwrap().len(), 1);
    assert_eq!(world.authority.keys_known(), 1);
}

#[tokio::test]
async fn an_address_that_keeps_failing_waits() {
    let world = World::new();
    let wrong = World::new().token(1);
    for _ in 0..ENROL_FAILURES_MAX {
        world.join(&wrong, &Holder::new()).await.unwrap_err();
    }
    let right = world.token(1);
    let refusal = world.join(&right, &Holder::new()).await.unwrap_err();
    assert_eq!(refusal.code, Code::RateLimited);
    world.pass(ENROL_WINDOW_MS);
    world.join(&right, &Holder::new()).await.unwrap();
}

#[tokio::test]
async fn the_secret_is_kept_nowhere() {
    let world = World::new();
    let token = world.token(1);
    let shown = token.to_string();
    let secret = shown.split(['.', '@']).nth(3).unwrap();
    let bytes = std::fs::read(world.dir.path().join("meta.redb")).unwrap();
    let kept = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(
        kept(token.id.to_string().as_bytes()),
        "the token is in the file"
    );
    assert!(!kept(secret.as_bytes()) && !kept(&token.secret.0));
    assert!(!format!("{token:?} {:?}", world.authority.tokens().unwrap()).contains(secret));
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused_and_nothing_panics() {
    let world = World::new();
    let token = world.token(1);
    let honest = {
        let connection = world.connect(ENROL_ALPN, &Holder::new()).await;
        encode(&request(
            &token,
            &Holder::new(),
            &connection.client_exporter(),
        ))
        .unwrap()
    };
    let over_limit = u32::MAX.to_be_bytes().to_vec();
    let mut seed = 0x5eed_u64;
    for round in 0..200 {
        let bytes = if round == 0 {
            over_limit.clone()
        } else {
            mutated(&honest, &mut seed)
        };
        let connection = world.connect(ENROL_ALPN, &Holder::new()).await;
        let reply = world.send_bytes(connection, &bytes).await;
        let Reply::Refused(refusal) = reply else {
            panic!("round {round} of seed 0x5eed was accepted");
        };
        assert!(!refusal.help.is_empty());
        world.pass(ENROL_WINDOW_MS);
    }
}

/// Changes some bytes of a frame's content and keeps its length.
fn mutated(frame: &[u8], seed: &mut u64) -> Vec<u8> {
    let mut next = |below: usize| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(*seed >> 33).unwrap() % below
    };
    let mut bytes = frame.to_vec();
    for _ in 0..=next(4) {
        let at = 4 + next(bytes.len() - 4);
        bytes[at] = u8::try_from(next(256)).unwrap();
    }
    bytes
}
