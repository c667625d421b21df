//! Which aggregator an agent goes to: every agent ranks the configured addresses by a hash of its key
//! and the address (rendezvous hashing), so that agents spread evenly, stay where they are when an
//! aggregator is added, and spread again over the rest when one fails. The key is the spool's and
//! outlives its producer id: a new id must not move the agent.

/// The addresses in the order in which the owner of `key` tries them: its home first.
pub(super) fn order(key: &[u8], addresses: &[String]) -> Vec<String> {
    let mut ranked: Vec<_> = addresses
        .iter()
        .map(|address| (weight(key, address), address))
        .collect();
    ranked.sort();
    ranked.dedup();
    ranked
        .into_iter()
        .map(|(_, address)| address.clone())
        .collect()
}

/// A hash that is the same in every version and on every machine: FNV-1a, then the finaliser of
/// `splitmix64`, since FNV leaves the high bits of short inputs poorly mixed.
fn weight(key: &[u8], address: &str) -> u64 {
    let hash = key
        .iter()
        .chain(address.as_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: usize) -> Vec<String> {
        (0..count).map(|it| format!("10.0.0.{it}:9347")).collect()
    }

    fn homes(addresses: &[String]) -> Vec<String> {
        (0..3000)
            .map(|it| order(&(it * 7919_u64).to_be_bytes(), addresses)[0].clone())
            .collect()
    }

    #[test]
    fn agents_spread_evenly() {
        let addresses = addresses(3);
        let homes = homes(&addresses);
        for address in &addresses {
            let count = homes.iter().filter(|it| *it == address).count();
            assert!((850..1150).contains(&count), "{address}: {count} of 3000");
        }
    }

    #[test]
    fn only_the_agents_of_a_lost_aggregator_move() {
        let (before, after) = (homes(&addresses(4)), homes(&addresses(3)));
        for (before, after) in before.iter().zip(&after) {
            assert!(
                before == after || before == "10.0.0.3:9347",
                "{before} → {after}"
            );
        }
    }
}
