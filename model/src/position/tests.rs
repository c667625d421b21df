use proptest::prelude::*;

use super::*;

fn positions() -> impl Strategy<Value = Position> {
    let guard =
        (0..=GUARD_BYTES_MAX, any::<u128>()).prop_map(|(bytes, hash)| Guard { bytes, hash });
    let key = (1u8..=5, any::<u64>(), any::<u64>(), any::<u128>());
    let key = key.prop_map(|(level, file_system, inode, object)| FileKey {
        level: match level {
            1 => KeyLevel::Handle,
            2 => KeyLevel::HandleId,
            3 => KeyLevel::Generation,
            4 => KeyLevel::BirthTime,
            _ => KeyLevel::Inode,
        },
        file_system,
        inode,
        object,
    });
    let place = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64));
    let path = proptest::collection::vec(any::<u8>(), 0..64);
    let codec = prop::sample::select(vec![
        Codec::None,
        Codec::Gzip,
        Codec::Zstd,
        Codec::Bzip2,
        Codec::Xz,
    ]);
    let offset = prop_oneof![any::<u64>(), 0..3000u64];
    let numbers = (any::<u64>(), any::<u32>(), (offset, codec));
    let milestones = [guard.clone(), guard.clone()];
    let place = (place, any::<bool>(), milestones);
    let finished_s = proptest::option::of(any::<u64>());
    (numbers, key, guard.clone(), guard, path, place, finished_s).prop_map(
        |(
            (lineage, epoch, (offset, codec)),
            key,
            head,
            tail,
            path,
            (place, is_copied, milestones),
            finished_s,
        )| {
            let [tail, greater, lesser] = within(offset, [tail, milestones[0], milestones[1]]);
            Position {
                lineage: LineageId(lineage),
                epoch,
                offset,
                codec,
                key,
                head,
                tail,
                path,
                place,
                milestones: [greater, lesser],
                is_copied,
                finished_s,
            }
        },
    )
}

/// Guards before an offset and its milestones, no longer than what is before them.
fn within(offset: u64, mut guards: [Guard; 3]) -> [Guard; 3] {
    let [greater, lesser] = milestones_of(offset);
    for (guard, end) in guards.iter_mut().zip([offset, greater, lesser]) {
        guard.bytes = guard.bytes.min(u16::try_from(end).unwrap_or(u16::MAX));
    }
    guards
}

#[test]
fn a_guard_that_covers_more_than_there_is_before_it_is_refused() {
    let covers = |bytes| Guard { bytes, hash: 1 };
    for (milestones, tail) in [([0, 0], 100), ([64, 32], 0), ([0, 32], 0)] {
        let position = Position {
            offset: 100,
            tail: covers(tail),
            milestones: milestones.map(covers),
            lineage: LineageId(7),
            epoch: 0,
            codec: Codec::None,
            key: FileKey {
                level: KeyLevel::Inode,
                file_system: 9,
                inode: 11,
                object: 12,
            },
            head: Guard::default(),
            path: b"/a".to_vec(),
            place: None,
            is_copied: false,
            finished_s: None,
        };
        let mut bytes = encoded(&position);
        assert_eq!(Position::decode(&bytes).as_ref(), Ok(&position));
        // Behind version, flags, codec, lineage and epoch.
        assert_eq!(std::mem::replace(&mut bytes[12], 63), 100);
        assert_eq!(
            Position::decode(&bytes),
            Err(PositionError::Field("a guard's length"))
        );
    }
}

fn encoded(position: &Position) -> Vec<u8> {
    let mut bytes = Vec::new();
    position.encode(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn positions_behind_each_other_are_read_back_all(positions in prop::collection::vec(positions(), 1..4)) {
        let bytes: Vec<u8> = positions.iter().flat_map(encoded).collect();
        prop_assert_eq!(Position::decode_all(&bytes), Ok(positions));
        prop_assert!(Position::decode_all(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn whatever_is_read_as_positions_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(positions) = Position::decode_all(&bytes) {
            let again: Vec<u8> = positions.iter().flat_map(encoded).collect();
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_position_is_read_back_as_it_was_written(position in positions()) {
        prop_assert_eq!(Position::decode(&encoded(&position)), Ok(position));
    }

    #[test]
    fn any_bytes_are_a_position_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(position) = Position::decode(&bytes) {
            prop_assert_eq!(encoded(&position), bytes);
        }
    }

    #[test]
    fn a_damaged_position_has_one_reading_or_none(
        position in positions(), at in any::<prop::sample::Index>(), bit in 0..8u32
    ) {
        let mut bytes = encoded(&position);
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if let Ok(other) = Position::decode(&bytes) {
            prop_assert_eq!(encoded(&other), bytes);
        }
    }

    #[test]
    fn a_cut_position_is_refused(position in positions(), at in any::<prop::sample::Index>()) {
        let bytes = encoded(&position);
        let at = at.index(bytes.len());
        prop_assert!(Position::decode(&bytes[..at]).is_err());
    }
}

#[test]
fn the_longest_position_fits_its_limit() {
    let guard = Guard {
        bytes: GUARD_BYTES_MAX,
        hash: u128::MAX,
    };
    let position = Position {
        lineage: LineageId(u64::MAX),
        epoch: u32::MAX,
        offset: u64::MAX,
        codec: Codec::Xz,
        key: FileKey {
            level: KeyLevel::Inode,
            file_system: u64::MAX,
            inode: u64::MAX,
            object: u128::MAX,
        },
        head: guard,
        tail: guard,
        path: vec![b'p'; PATH_BYTES_MAX],
        place: Some(vec![b'q'; PATH_BYTES_MAX]),
        milestones: [guard; 2],
        is_copied: true,
        finished_s: Some(u64::MAX),
    };
    assert!(encoded(&position).len() <= POSITION_BYTES_MAX);
}

#[test]
fn the_layout_of_version_2_stays_readable() {
    let bytes = [
        &[2, 3, 1][..],
        &7u64.to_be_bytes(),
        &[3, 0xac, 0x02],
        &[1],
        &9u64.to_be_bytes(),
        &[11],
        &12u128.to_be_bytes(),
        &[4],
        &13u128.to_be_bytes(),
        &[5],
        &14u128.to_be_bytes(),
        b"\x02/a\x04/a.1",
        &[0xac, 0x02],
    ]
    .concat();
    let position = Position::decode(&bytes).unwrap();
    assert_eq!(position.lineage, LineageId(7));
    assert_eq!((position.epoch, position.offset), (3, 300));
    assert_eq!(position.codec, Codec::Gzip);
    assert_eq!(position.key.inode, 11);
    assert_eq!(position.tail, Guard { bytes: 5, hash: 14 });
    assert_eq!(position.place.as_deref(), Some(&b"/a.1"[..]));
    assert_eq!(position.finished_s, Some(300));
    assert!(!position.is_copied);
    assert_eq!(encoded(&position), bytes);
    let mut copied = bytes;
    copied[1] |= 4;
    let position = Position::decode(&copied).unwrap();
    assert!(position.is_copied);
    assert_eq!(encoded(&position), copied);
    let milestones = [Guard { bytes: 3, hash: 7 }, Guard::default()];
    let passed = Position {
        milestones,
        ..position
    };
    assert_eq!(Position::decode(&encoded(&passed)), Ok(passed));
}
