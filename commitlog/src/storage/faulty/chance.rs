//! The seeded chance of the faulty disk, and what a power cut makes of a sector.

/// A deterministic generator (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

/// How a power cut treats what was not synced. Drawn once a cut: pure cases are common in life and rare
/// among independent draws.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mood {
    /// Nothing reached the disk.
    Old,
    /// Everything did.
    New,
    /// Each piece has its own fate.
    Mixed {
        /// Of 8 sectors, so many end as neither old nor new.
        damaged: u64,
    },
}

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, 0 when that is 0.
    pub(super) fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound.max(1)).unwrap_or(0)
    }
}

impl Mood {
    pub(super) fn draw(chance: &mut Chance) -> Mood {
        match chance.below(8) {
            0 => Mood::Old,
            1 => Mood::New,
            2 | 3 => Mood::Mixed { damaged: 0 },
            4..=6 => Mood::Mixed { damaged: 2 },
            _ => Mood::Mixed { damaged: 6 },
        }
    }

    /// Which of `count` states, oldest first, is the one that is left.
    pub(super) fn pick(self, chance: &mut Chance, count: usize) -> usize {
        match self {
            Mood::Old => 0,
            Mood::New => count.saturating_sub(1),
            Mood::Mixed { .. } => chance.below(count as u64),
        }
    }

    /// Whether one un-synced change of a directory survives.
    pub(super) fn survives(self, chance: &mut Chance) -> bool {
        self.pick(chance, 2) == 1
    }

    /// Leaves in `sector` what a cut makes of it: old, new, zeros, garbage, or new up to a point.
    pub(super) fn settle_sector(
        self,
        chance: &mut Chance,
        sector: &mut [u8],
        old: &[u8],
        new: &[u8],
    ) {
        let damaged = match self {
            Mood::Old => return,
            Mood::New => return sector.copy_from_slice(new),
            Mood::Mixed { damaged } => damaged,
        };
        if (chance.below(8) as u64) >= damaged {
            sector.copy_from_slice(if chance.below(2) == 0 { old } else { new });
            return;
        }
        match chance.below(3) {
            0 => sector.fill(0),
            1 => sector
                .iter_mut()
                .for_each(|byte| *byte = chance.next().to_le_bytes()[0]),
            _ => {
                let shorn = chance.below(sector.len() as u64);
                sector[..shorn].copy_from_slice(&new[..shorn]);
            }
        }
    }
}
